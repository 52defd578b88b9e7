"""Errors that a user can mend. The command line prints them as one line and exits with code 2."""

from infra.secrets import masked


class InputError(ValueError):
    """Something the user gave is wrong. The message names the cause and the remedy, and shows no credentials."""

    def __init__(self, message: object = "") -> None:
        super().__init__(masked(message))


class WorkerDiedError(RuntimeError):
    """A process that worked for this one ended early. Nothing is lost: the same command goes on from here."""

    def __init__(self, message: object = "") -> None:
        super().__init__(masked(message))
