"""The exception for invalid input, as opposed to errors of the program."""

import re

__all__ = [
    "UserError",
]

_LINE_BREAK = re.compile(r"\s*[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]\s*")
# File names may contain control characters, which terminals interpret, and lone surrogates, which
# no encoding can represent.
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
# Longer than any file name; a path or a number of this length is likely a mistake.
_LONG_WORD = re.compile(r"\S{500,}")
_LONGEST_REASON = 300


def one_line(message: str) -> str:
    """Returns a message that prints as one line, regardless of the names and values it quotes.

    Line breaks become spaces, control characters are escaped, and words of 500 characters or more
    lose their middle.
    """
    line = _LINE_BREAK.sub(" ", message)
    line = _UNPRINTABLE.sub(lambda found: ascii(found[0])[1:-1], line)
    return _LONG_WORD.sub(lambda found: f"{found[0][:100]}...{found[0][-100:]}", line)


def in_short(error: BaseException) -> str:
    """Returns the message of an error on one line, at most 300 characters of it, else its class."""
    words = " ".join(str(error).split()) or type(error).__name__
    return words if len(words) <= _LONGEST_REASON else f"{words[:_LONGEST_REASON]}..."


def is_out_of_memory(error: BaseException) -> bool:
    """Returns whether the host or a device ran out of memory."""
    return isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)


class UserError(ValueError):
    """A wrong input, described in one line: what, where, what was expected and what to do.

    Commands print only the message, without a traceback, and exit with status 2.
    """

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))
