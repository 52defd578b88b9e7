"""What becomes a part of a path is checked first."""

import pytest

from infra.errors import InputError
from infra.names import safe_name


@pytest.mark.parametrize("name", ["a", "0f3c" * 16, "movie-polarity", "smollm2.movie_1", "x" * 200])
def test_a_plain_name_is_taken(name):
    assert safe_name(name, "run id") == name


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x", "a/b", "a\\b", "/etc", "~", "a\0", "a\n", "-rf", ".hidden", "a.", "é", "x" * 201]
)
def test_what_could_lead_elsewhere_is_refused(name):
    with pytest.raises(InputError, match=r"run id .* cannot name a file"):
        safe_name(name, "run id")
