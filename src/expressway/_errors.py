"""What a user's mistake looks like."""


class InputError(ValueError):
    """A mistake in the user's files, table or arguments.

    The message is one line: what was got, what is needed, what to do.
    """
