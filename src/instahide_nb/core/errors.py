"""The one exception that means: the input was wrong, and this is how to mend it."""

from __future__ import annotations

__all__ = ["InputError"]


class InputError(ValueError):
    """Raised for input that a person can mend: a parameter, a file, a folder.

    The message is one line; it names the parameter or file and says what would be accepted. The command line
    prints it and exits with 2; no traceback is shown.

    Examples
    --------
    >>> str(InputError("k: 1 is too small; two images or more are mixed"))
    'k: 1 is too small; two images or more are mixed'
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))
