"""The one exception type that is shown to a user as a single line instead of a traceback."""


class InputError(ValueError):
    """Something the user gave cannot be used: a setting, a file, a name.

    The message is one line that says what is wrong, where (the key or the path, and the value), and what to do.
    """
