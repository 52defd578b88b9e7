"""Credentials are hidden wherever an address is shown."""

import io
import logging

import pytest

from infra.errors import InputError
from infra.hidden import Mask, hidden_credentials, mask_logs
from infra.secrets import masked, masked_address

SECRET = "s3cr3t"


@pytest.mark.parametrize(
    ("shown", "wanted"),
    [
        (f"postgresql+psycopg://dept:{SECRET}@db:5432/ledger", "postgresql+psycopg://dept:***@db:5432/ledger"),
        (f"postgresql://u:a@{SECRET}/w?{SECRET}@db/l", "postgresql://u:***@db/l"),
        (f"postgresql://db/l?user=u&password={SECRET}&sslmode=on", "postgresql://db/l?user=u&password=***&sslmode=on"),
        (f"mysql+pymysql://root:{SECRET}@db/x?ssl_key=k", "mysql+pymysql://root:***@db/x?ssl_key=k"),
        (f"http://me:{SECRET}@mlflow:5000/api", "http://me:***@mlflow:5000/api"),
        (f"http://me:{SECRET}/{SECRET}@mlflow/api", "http://me:***@mlflow/api"),
        (f"https://{SECRET}@host/x", "https://***@host/x"),
        (f"s3://key:{SECRET}@bucket/adapters", "s3://key:***@bucket/adapters"),
        (f"https://b.s3/x?X-Amz-Signature={SECRET}&n=1", "https://b.s3/x?X-Amz-Signature=***&n=1"),
        (f"https://b/x?sig={SECRET}&api_key={SECRET}", "https://b/x?sig=***&api_key=***"),
        (f"could not ask 'http://a:{SECRET}@h:1/v' (http://a:{SECRET}@h:1)", "could not ask 'http://a:***@h:1/v' ("),
        (f"connection failed: host=db password={SECRET} user=u", "connection failed: host=db password=*** user=u"),
        (f"ledger: u:{SECRET}@h/d is none", "ledger: u:***@h/d is none"),
        (f"DEPT_LEDGER_URL=u:{SECRET}@h/d", "DEPT_LEDGER_URL=u:***@h/d"),
        (f"postgresql:/u:{SECRET}@h/d", "postgresql:/u:***@h/d"),
        (f"'//u:{SECRET}/{SECRET}@h'", "'//u:***@h'"),
        (f"config/password={SECRET} vault/password: {SECRET}", "config/password=*** vault/password: ***"),
        (f"/run/secrets/api_key={SECRET}", "/run/secrets/api_key=***"),
        (f"Authorization: Basic {SECRET}", "Authorization: Basic ***"),
        (f'{{"PREFECT_API_KEY": "{SECRET}"}}', '{"PREFECT_API_KEY": "***"}'),
    ],
)
def test_hidden(shown, wanted):
    assert wanted in masked(shown)
    assert SECRET not in masked(shown)
    assert masked(masked(shown)) == masked(shown)


@pytest.mark.parametrize(
    "plain",
    [
        "sqlite:////home/me/ledger.db",
        "http://127.0.0.1:4200/api",
        "http://h:5000/#/models/x@champion",
        "models:/dept@champion, mail me@example.org",
        "s3://bucket/a@b",
        "postgresql://user@host/name",
        "password is too short; token 7 of the text",
    ],
)
def test_left_as_it_is(plain):
    assert masked(plain) == plain


@pytest.mark.parametrize(
    ("address", "wanted"),
    [
        (f"u:{SECRET}@h/d", "***@h/d"),
        (f"u {SECRET}@h/d", "***@h/d"),
        (f"postgresql://u:a {SECRET}@h/d", "postgresql://***@h/d"),
        ("sqlite:////data/a@b.db", "sqlite:////data/a@b.db"),
        ("postgresql://u@h/d", "postgresql://u@h/d"),
    ],
)
def test_what_is_meant_to_be_an_address(address, wanted):
    assert masked_address(address) == wanted


def test_an_input_error_shows_none():
    assert str(InputError(f"ledger postgresql://u:{SECRET}@h/d: away")) == "ledger postgresql://u:***@h/d: away"


@pytest.fixture
def log():
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    logger = logging.getLogger("test-of-secrets")
    logger.addHandler(handler)
    logger.propagate = False
    yield logger, written
    logger.removeHandler(handler)


def test_logs_are_masked_with_their_arguments_and_tracebacks(log):
    logger, written = log
    mask_logs()
    mask_logs()
    assert sum(isinstance(one, Mask) for one in logger.handlers[0].filters) == 1
    logger.error("cannot reach %s after %d tries", f"http://u:{SECRET}@h", 3)
    try:
        raise ConnectionError(f"http://u:{SECRET}@h is away")
    except ConnectionError:
        logger.exception("lost")
    logger.error("plain %s", "http://h")
    told = written.getvalue()
    assert SECRET not in told
    assert "cannot reach http://u:***@h after 3 tries" in told
    assert "ConnectionError: http://u:***@h is away" in told
    assert "plain http://h" in told


def test_a_flow_raises_no_error_that_shows_one():
    with pytest.raises(RuntimeError, match=r"ConnectionError: http://u:\*\*\*@h") as raised, hidden_credentials():
        raise ConnectionError(f"http://u:{SECRET}@h")
    assert raised.value.__cause__ is None
    assert raised.value.__suppress_context__
    with pytest.raises(InputError, match="the server is away") as raised, hidden_credentials():
        raise InputError("the server is away") from ConnectionError(f"http://u:{SECRET}@h")
    assert raised.value.__cause__ is None
    with pytest.raises(KeyError), hidden_credentials():
        raise KeyError("an error without any stays as it is")
