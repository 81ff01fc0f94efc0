"""The one exception that users are meant to read."""


class UserError(Exception):
    """Bad input, told in one sentence: what was seen, what was expected, what to type.

    The command line prints the sentence and exits with status 2, without a traceback.
    """
