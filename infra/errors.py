"""Errors that a user can mend. The command line prints them as one line and exits with code 2."""


class InputError(ValueError):
    """Something the user gave is wrong. The message names the cause and the remedy."""


class WorkerDiedError(RuntimeError):
    """A process that worked for this one ended early. Nothing is lost: the same command goes on from here."""
