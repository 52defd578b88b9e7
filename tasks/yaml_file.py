"""YAML as this product reads it: keys are unique, and errors name a line, not what stands there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from infra.errors import InputError
from tasks.plain import shown


class _UniqueKeys(yaml.SafeLoader):
    """PyYAML lets the last of two equal keys win; a file should not lose a line that way."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[tuple[str, str]] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if (key.tag, key.value) in seen:
                problem = f"key {shown(key.value)} stands there twice"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            seen.add((key.tag, key.value))
        return super().construct_mapping(node, deep)


def read_yaml(path: Path, what: str | None = None) -> Any:
    """What a YAML file holds.

    Args:
        what: how errors call the file; None: its path.

    Raises:
        InputError: a file that cannot be read, is not UTF-8 or not YAML, or has a key twice.
    """
    where = what or str(path)
    try:
        return parse_yaml(path.read_text(encoding="utf-8-sig"), where)
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: not UTF-8 (byte {error.start}); save it as UTF-8") from error
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        reason = getattr(error, "strerror", None) or "its name or content is no text"
        raise InputError(f"{where}: cannot be read ({reason}). Remedy: give the path of a text file") from error


def parse_yaml(text: str, where: str) -> Any:
    """What a YAML text holds; `where` heads the InputError of one that is not YAML or has a key twice."""
    try:
        return yaml.load(text, Loader=_UniqueKeys)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = error.problem or error.context or "not to be read"
        raise InputError(f"{where}{place}: not valid YAML ({problem}); mend this line") from error
    except yaml.YAMLError as error:
        raise InputError(f"{where}: not valid YAML (characters that are no text); save it as plain text") from error
    except RecursionError as error:
        raise InputError(f"{where}: YAML nested too deep; write it flat") from error
    except (ValueError, TypeError, OverflowError) as error:  # dates of month 13, keys that cannot be keys
        raise InputError(f"{where}: not valid YAML (a value or key that cannot be read); put it in quotes") from error
