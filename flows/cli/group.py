"""What every command shares: errors as one line, `-q` and `-v`."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any, get_type_hints

import typer
from rich.markup import escape
from typer.core import TyperGroup

from flows.cli import terminal
from infra.errors import InputError, WorkerDiedError

FAILED, USAGE, INTERRUPTED = 1, 2, 130
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Errors and results alone.")]
Verbose = Annotated[int, typer.Option("--verbose", "-v", count=True, help="Also what is done; -vv: everything.")]


class ErrorsTold(TyperGroup):
    """The outermost group: turns errors that a user can mend into one line and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was asked for."""
        try:
            terminal.configure()
            return super().invoke(ctx)
        except InputError as error:
            terminal.complain(f"[bold red]Error:[/] {escape(' '.join(str(error).split()))}")
            raise typer.Exit(USAGE) from None
        except WorkerDiedError as error:
            line = escape(str(error).splitlines()[0])
            terminal.complain(f"[bold red]Error:[/] {line}. The same command goes on from here.")
            raise typer.Exit(FAILED) from None
        except KeyboardInterrupt:
            terminal.complain("Interrupted. What was finished is kept: the same command goes on from here.")
            raise typer.Exit(INTERRUPTED) from None


def command(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with the options -q and -v, which set how much is said before it begins."""

    @functools.wraps(function)
    def louder(*args: Any, quiet: bool = False, verbose: int = 0, **given: Any) -> Any:
        if quiet or verbose:
            terminal.configure(1 if quiet else -verbose)
        return function(*args, **given)

    signature = inspect.signature(function, eval_str=True)
    more = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
        for name, default, kind in (("quiet", False, Quiet), ("verbose", 0, Verbose))
    ]
    louder.__signature__ = signature.replace(parameters=[*signature.parameters.values(), *more])  # type: ignore[attr-defined]
    louder.__annotations__ = get_type_hints(function, include_extras=True) | {"quiet": Quiet, "verbose": Verbose}
    return louder
