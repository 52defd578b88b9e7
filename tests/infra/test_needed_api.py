"""Which Prefect server a command takes that can do nothing without one; another is never taken in its place."""

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from infra import temporary_server
from infra.errors import InputError
from infra.temporary_server import needed_api

NOBODY, OF_UP = "http://127.0.0.1:9/api", "http://127.0.0.1:4200/api"
UNSET = {"restore_defaults": {PREFECT_API_URL}}


def test_the_server_of_up_where_prefect_is_set_to_none(monkeypatch):
    monkeypatch.setattr(temporary_server, "_of_up", lambda: OF_UP)
    with temporary_settings(**UNSET):
        assert needed_api() == OF_UP
        monkeypatch.setattr(temporary_server, "_of_up", lambda: None)
        with pytest.raises(InputError, match="no Prefect server is in reach"):
            needed_api()


def test_an_address_that_does_not_answer_is_refused_and_no_other_is_taken(monkeypatch):
    monkeypatch.setattr(temporary_server, "_of_up", lambda: OF_UP)
    with temporary_settings({PREFECT_API_URL: NOBODY}):
        with pytest.raises(InputError, match=r"does not answer: http://127\.0\.0\.1:9/api\. Remedy"):
            needed_api()
        found = iter([False, True])  # slow once
        monkeypatch.setattr(temporary_server, "answers", lambda url: next(found))
        assert needed_api() == NOBODY
