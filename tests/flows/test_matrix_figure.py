import struct

import pytest

from dept.config import TrainConfig
from flows.reporting.matrix_figure import matrix_panels, matrix_plot
from infra.errors import InputError
from tests.flows.report_helpers import outcome
from tests.flows.test_report_variants import trial

UNTRAINED = {"training": TrainConfig(steps=0)}


def trials():
    return [
        trial("scratch", 60.0, seed=0),
        trial("scratch", 70.0, seed=1),
        trial("source:a", 80.0, seed=0),
        trial("source:a", 75.0, seed=1),
        trial("source:b", 50.0, seed=1),
        trial("source:b", 55.0, task="sms-spam"),
        trial("source:a", 41.0, k=4),
        trial("source:a", 65.0, spec=UNTRAINED),
        trial("source:a", 67.0, seed=1, spec=UNTRAINED),
        trial("best-source", 99.0),
        trial("source:a", 99.0, task="other", role="search"),
        outcome("movie-polarity", "untrained", 54.0),
    ]


@pytest.mark.parametrize("order", [1, -1])
def test_numbers_of_the_matrix(order):
    panels = matrix_panels(trials()[::order])
    assert [panel.shots for panel in panels] == [4, 16, None]
    four, sixteen, zero = panels
    assert sixteen.scores == {
        ("a", "movie-polarity"): pytest.approx(77.5),
        ("b", "movie-polarity"): 50.0,
        ("b", "sms-spam"): 55.0,
    }
    # paired by seed: (80 - 60 + 75 - 70) / 2; 50 - 70; sms-spam has no scratch trial
    assert sixteen.gains == {("a", "movie-polarity"): pytest.approx(12.5), ("b", "movie-polarity"): -20.0}
    assert zero.scores == {("a", "movie-polarity"): 66.0}
    assert zero.gains == {("a", "movie-polarity"): 12.0}
    assert four.scores == {("a", "movie-polarity"): 41.0}
    assert four.gains == {}  # scratch at another k is no partner


def test_heat_map_is_drawn_in_both_themes_and_told_in_words():
    plot = matrix_plot(trials())
    for png in (plot.light, plot.dark):
        width, height = struct.unpack(">II", png[16:24])
        assert width > height > 200
    assert plot.light != plot.dark
    assert "zero-shot (gain over untrained): a to movie-polarity 66.0 (+12.0)" in plot.alt
    assert "k = 16 (gain over scratch): " in plot.alt
    assert "b to movie-polarity 50.0 (-20.0)" in plot.alt


def test_no_source_no_matrix():
    with pytest.raises(InputError, match="source:NAME"):
        matrix_plot([trial("scratch", 60.0), trial("best-source", 70.0)])
    assert matrix_plot([trial("source:a", 60.0)]).light  # one cell: its colours span nothing
