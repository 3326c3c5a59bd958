"""The one exception that means: the input is wrong, not the program."""


class UserError(ValueError):
    """A wrong input, told in one line: what, where, what was expected and what to do.

    `launch.py` prints the message alone, without a traceback, and ends with exit status 2.
    """
