"""One home whose Prefect database is made once for all tests of this room."""

import pytest


@pytest.fixture(scope="session")
def prefect_home(tmp_path_factory):
    return tmp_path_factory.mktemp("prefect-home")


@pytest.fixture(scope="package", autouse=True)
def _no_server_of_another_room():
    """What this room asks is answered by servers of its own, also where this process ran tests of flows before."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings(restore_defaults={PREFECT_API_URL}):
        yield


@pytest.fixture
def in_prefect_home(monkeypatch, prefect_home, tmp_path):
    """DEPT_HOME is that home; no server is configured; servers that are started run unmeasured."""
    monkeypatch.setenv("DEPT_HOME", str(prefect_home))
    monkeypatch.chdir(tmp_path)
    names = ("PREFECT_API_URL", "PREFECT_API_KEY", "PREFECT_API_AUTH_STRING")
    for name in (*names, "COVERAGE_PROCESS_START", "COVERAGE_PROCESS_CONFIG"):
        monkeypatch.delenv(name, raising=False)
