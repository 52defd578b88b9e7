"""Is the optional extra of LoRA there? No torch here: a controller asks before any work."""

from __future__ import annotations

from importlib.util import find_spec

from infra.errors import InputError


def need_peft() -> None:
    """Say early that the extra is missing.

    Raises:
        InputError: peft is not installed.
    """
    try:
        found = find_spec("peft") is not None
    except ValueError:  # an entry without a spec in sys.modules
        found = False
    if not found:
        raise InputError('method lora needs peft, which is not installed. Remedy: pip install "peft>=0.17"')
