"""A log file for each run."""

import logging

import pytest

from flows.cli.run_log import run_log
from flows.cli.terminal import LOG
from infra.settings import home


def test_lines_of_a_run_are_kept_and_nothing_is_left_behind(capsys):
    before = list(logging.getLogger().handlers), list(LOG.handlers), LOG.level, LOG.propagate
    with run_log("run-x", {"name": "x"}) as path:
        assert not path.exists()
        LOG.info("sources begin")
        logging.getLogger("flows.progress").info("at postgresql://ann:hunter2@db/x")
        logging.getLogger("some.library").warning("beware")
    assert path.parent == home() / "logs"
    text = path.read_text()
    for said in ("asked for: {'name': 'x'}", "sources begin", "ann:***@db", "beware", "done in "):
        assert said in text
    assert "hunter2" not in text
    assert "sources begin" not in capsys.readouterr().err
    after = list(logging.getLogger().handlers), list(LOG.handlers), LOG.level, LOG.propagate
    assert after[1:] == before[1:]
    assert not any(type(handler).__name__ == "_Late" for handler in after[0])


def test_a_run_that_breaks_leaves_its_traceback():
    paths = []

    def breaks():
        with run_log("run-x", {}) as path:
            paths.append(path)
            LOG.info("begun")
            raise KeyError("lost")

    with pytest.raises(KeyError):
        breaks()
    assert "KeyError: 'lost'" in paths[0].read_text()


def test_a_run_that_is_refused_leaves_no_file():
    with pytest.raises(ValueError, match="no"), run_log("run-x", {}):
        raise ValueError("no")
    assert not home().exists()
