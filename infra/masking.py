"""Passwords and tokens never reach a log, an error or a page."""

from __future__ import annotations

import re

HIDDEN = "***"
_SECRET = r"(?i)([?&;](?:password|passwd|pwd|token|secret|api[_-]?key|key|sig|signature|sslpassword)=)[^&;#\s]*"


def masked(text: str) -> str:
    """A URL, or a text with URLs, without passwords and tokens."""
    text = re.sub(r"(\w://[^\s:/@]*:)[^\s]*@", rf"\1{HIDDEN}@", text)  # up to the last @: a password may hold one
    text = re.sub(r"(https?://)[^\s:/@]+@", rf"\1{HIDDEN}@", text)  # a token alone
    return re.sub(_SECRET, rf"\1{HIDDEN}", text)
