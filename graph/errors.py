"""What a user's mistake looks like: one line, and how to mend it."""

from __future__ import annotations


class ForetraceError(Exception):
    """A mistake of the user's: ``message`` says what is wrong in one line, ``mend`` what to do about it.

    The command line prints both without a traceback and ends with ``exit_code``. A fault of ours
    is any other exception, and keeps its traceback.
    """

    exit_code = 2

    def __init__(self, message: str, mend: str = "") -> None:
        super().__init__(message)
        self.message = " ".join(message.split())
        self.mend = " ".join(mend.split())

    def __str__(self) -> str:
        return f"{self.message}. {self.mend}" if self.mend else self.message
