"""The one exception that means: the user can mend this."""


class InputError(ValueError):
    """A mistake in what the user gave: a file, a folder, a key of a config, an option.

    The message names the thing, says what was expected and how to mend it. The command line prints it
    without a stack trace and exits with code 2.
    """
