"""Errors that a user can mend. The command line prints them as one line and exits with code 2."""


class InputError(ValueError):
    """Something the user gave is wrong. The message names the cause and the remedy."""
