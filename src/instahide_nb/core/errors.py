"""The one exception that says: the input was wrong, and this is how to correct it."""


class InputError(ValueError):
    """Input that a person can correct: a parameter, a file, a folder.

    The message is one line: the parameter or file, what is wrong, and what would be accepted. The command line prints
    it without a traceback and exits with 2.
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))
