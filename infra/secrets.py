"""Addresses without their credentials, for whatever is printed, logged, raised or reported."""

from __future__ import annotations

import re

HIDDEN = "***"
# Up to white space, a quote, an angle bracket or the punctuation of a sentence around it.
_ADDRESS = re.compile(r"\b[A-Za-z][A-Za-z0-9+.-]*://[^\s'\"`<>]*[^\s'\"`<>.,:;)\]}]")
_TELLING = r"(?:[\w.-]*(?:password|passwd|pwd|secret|token|signature|credential|api_?key|access_?key)[\w.-]*|sig|key)"
_IN_QUERY = re.compile(rf"([?&;]{_TELLING}=)[^&;#\s]+", re.IGNORECASE)
_IN_WORDS = re.compile(
    r"\b((?:\w+_)?(?:password|passwd|api_key|auth_string)|authorization)(['\"]?\s*[=:]\s*['\"]?)"
    r"((?:basic|bearer)\s+)?+(?!\*)[^\s'\",;]+",
    re.IGNORECASE,
)
# user:password@host whose scheme was forgotten, or written with too few slashes; `models:/x@alias` is none.
_BARE = re.compile(
    r"(?<![^\s'\"`<>(\[=,])((?:[A-Za-z][\w+.-]*:)?/{0,3}[^\s'\"`<>:/@]*:)(?!/|\d{1,5}/|\*)[^\s'\"`<>]+@(?=[^\s'\"`<>@])"
)
_OF_FILES = ("http", "https", "ftp", "file")  # an @ may stand in the path of these: only the authority is looked at


def masked(text: object) -> str:
    """The text with every password, token and key of the addresses in it replaced by ***.

    An address alone or a sentence with several; database URLs are rendered by SQLAlchemy. Of a user without a
    password only http addresses are masked, where it may be a token.
    """
    hidden = _ADDRESS.sub(lambda found: _one(found[0]), str(text))
    hidden = _BARE.sub(rf"\1{HIDDEN}@", hidden)
    return _IN_WORDS.sub(lambda found: f"{found[1]}{found[2]}{found[3] or ''}{HIDDEN}", hidden)


def masked_address(text: str) -> str:
    """`masked` of what is meant to be one address: nothing before its last @ is shown where it is none."""
    scheme, mark, rest = text.partition("://")
    before, at, where = (rest if mark else text).rpartition("@")
    if at and (not mark or re.search(r"[\s'\"`<>]", before)):
        text = f"{scheme if mark else ''}{mark}{HIDDEN}@{where}"
    return masked(text)


def _one(address: str) -> str:
    scheme, _, rest = address.partition("://")
    http = scheme.lower() in _OF_FILES
    end = re.search(r"[/?#]", rest) if http else None
    authority, path = (rest[: end.start()], rest[end.start() :]) if end else (rest, "")
    # A password may hold an unescaped @, /, ? or #: what stands before the last @ is credentials.
    who, at, where = authority.rpartition("@")
    if http and not at and (late := re.match(r"[^/@:]+:[^@]*@", rest)) and not _port(rest):
        who, at, where, path = late[0][:-1], "@", rest[late.end() :], ""
    if at:
        user, colon, _ = who.partition(":")
        # With a second @ it is guesswork where the password ends; SQLAlchemy guesses the first.
        rendered = _rendered(address) if colon and not http and rest.count("@") == 1 else None
        shown = HIDDEN if http and not colon else user
        address = rendered or f"{scheme}://{shown}{':' + HIDDEN if colon else ''}@{where}{path}"
    return _IN_QUERY.sub(rf"\1{HIDDEN}", address)


def _port(rest: str) -> bool:
    """Whether the colon of `host:rest` stands before a port: then an @ further on belongs to a path."""
    return re.match(r"[^/:]+:\d{1,5}(/|$)", rest) is not None


def _rendered(address: str) -> str | None:
    """A database URL as SQLAlchemy shows it; None if it is none."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        url = make_url(address)
    except (ArgumentError, ValueError):
        return None
    return None if url.password is None else url.render_as_string(hide_password=True)
