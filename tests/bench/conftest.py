"""What the bench shares with the rooms' tests."""

from tests.flows.conftest import make_plan, prefect_url  # noqa: F401
from tests.registry.conftest import requests_sent, server  # noqa: F401
