"""The exceptions that mean: the user can mend this."""


class InputError(ValueError):
    """A mistake in what the user gave: a file, a folder, a key of a config, an option.

    The message names the thing, says what was expected and how to mend it. The command line prints it
    without a stack trace and exits with code 2.
    """


class WriteError(InputError):
    """A folder that cannot be written to, or a full disk: whatever is written there next will fail as well."""
