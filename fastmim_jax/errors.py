"""Exceptions for bad input, whose messages users read."""


class UserError(Exception):
    """Bad input, described in one sentence: what was seen, what was expected, what to type.

    The command line prints the sentence and exits with status 2, without a traceback.
    """


class OutOfMemoryError(UserError):
    """A step, or something else, does not fit in memory."""


class FormatMismatch(UserError):
    """The arrays of a file do not fit a format: unknown or missing names, or wrong shapes.

    `export.from_torch` catches no other exception while it tries formats, so that a mistake in a key table
    surfaces as itself.
    """
