"""What every command shares: errors as one line, an end when it is asked to end, `-q` and `-v`."""

from __future__ import annotations

import contextlib
import functools
import inspect
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn, get_type_hints

import typer
from rich.markup import escape
from typer.core import TyperGroup

from flows.cli import terminal
from flows.cli.usage import USAGE, usage_told
from infra.errors import InputError, WorkerDiedError

FAILED, INTERRUPTED, TERMINATED = 1, 130, 143
KEPT = "What was finished is kept: the same command goes on from here."
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Errors and results alone.")]
Verbose = Annotated[int, typer.Option("--verbose", "-v", count=True, help="Also what is done; -vv: everything.")]


class Terminated(KeyboardInterrupt):
    """SIGTERM: a command ends as by Ctrl-C, so that it gives back what it holds."""


class ErrorsTold(TyperGroup):
    """The outermost group: turns errors that a user can mend into one line and an exit code."""

    words: Sequence[str] = ()  # what was given to it

    def make_context(self, info_name: str | None, args: list[str], *more: Any, **options: Any) -> Any:
        """Read the options that stand before the command."""
        self.words = list(args)
        with usage_told(self, self.words):
            return super().make_context(info_name, args, *more, **options)

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was asked for."""
        try:
            terminal.configure()
            with usage_told(self, self.words), _ends_when_told():
                return super().invoke(ctx)
        except InputError as error:
            _refuse(str(error))
        except OSError as error:
            if (said := _of_a_folder(error)) is None:
                raise
            _refuse(said)
        except WorkerDiedError as error:
            line = escape(str(error).splitlines()[0])
            terminal.complain(f"[bold red]Error:[/] {line}. The same command goes on from here.")
            raise typer.Exit(FAILED) from None
        except KeyboardInterrupt as error:
            told = isinstance(error, Terminated)
            terminal.complain(f"{'Stopped by SIGTERM' if told else 'Interrupted'}. {str(error) or KEPT}")
            raise typer.Exit(TERMINATED if told else INTERRUPTED) from None


@contextlib.contextmanager
def _ends_when_told() -> Iterator[None]:
    """Within it SIGTERM raises `Terminated`. Left alone is what another program has set, such as to ignore it."""
    default = signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    if not default or threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(*_: object) -> None:
        raise Terminated

    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _refuse(said: str) -> NoReturn:
    terminal.complain(f"[bold red]Error:[/] {escape(' '.join(said.split()))}")
    raise typer.Exit(USAGE) from None


def _of_a_folder(error: OSError) -> str | None:
    """What to say of an error of our own folders (home, cache); None of another, which is a fault of ours."""
    from infra.settings import settings

    path = Path(os.fsdecode(error.filename)).absolute() if isinstance(error.filename, (str, bytes)) else None
    for name, folder in (("DEPT_HOME", settings().home), ("DEPT_CACHE", settings().cache)):
        # A folder that cannot be made is named by the part above it that is to blame.
        if path is not None and (path.is_relative_to(folder) or folder.is_relative_to(path)):
            return (
                f"{name}={folder}: cannot be used ({path}: {error.strerror}). Remedy: its rights and free space, or "
                f"another {name}"
            )
    return None


def _warn_of_strays(given: Iterable[Any]) -> None:
    """Name each DEPT_* variable that is no setting; once, by the innermost command."""
    if any(getattr(one, "invoked_subcommand", None) is not None for one in given):  # a group's: its command will
        return
    from infra.settings_table import strays

    for line in strays():
        terminal.tell(f"note: {line}")


def command(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with the options -q and -v, which set how much is said before it begins."""

    @functools.wraps(function)
    def louder(*args: Any, quiet: bool = False, verbose: int = 0, **given: Any) -> Any:
        if quiet or verbose:
            terminal.configure(1 if quiet else -verbose)
        _warn_of_strays([*args, *given.values()])
        return function(*args, **given)

    signature = inspect.signature(function, eval_str=True)
    more = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
        for name, default, kind in (("quiet", False, Quiet), ("verbose", 0, Verbose))
    ]
    louder.__signature__ = signature.replace(parameters=[*signature.parameters.values(), *more])  # type: ignore[attr-defined]
    louder.__annotations__ = get_type_hints(function, include_extras=True) | {"quiet": Quiet, "verbose": Verbose}
    return louder
