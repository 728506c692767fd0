"""The exception for wrong input, and a way to name the file or parameter at fault."""

from collections.abc import Iterator
from contextlib import contextmanager


class InputError(ValueError):
    """Input that a person can correct: a parameter, a file, a folder.

    The message is one line: the parameter or file, what is wrong, and what would be accepted. The command line prints
    it without a traceback and exits with 2.
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


@contextmanager
def naming(place: object, advice: str = "") -> Iterator[None]:
    """Prefix the message of an InputError with the file at fault."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{place}: {error}{advice}") from None
