"""Exceptions for bad input, whose messages users read."""

import difflib
import errno
import os
from collections.abc import Iterable

# Faults of disks, whose usual texts stand somewhere in the messages of other libraries.
_DISK_FAULTS = (
    "ENOSPC",
    "EDQUOT",
    "EFBIG",
    "EROFS",
    "EACCES",
    "EPERM",
    "EIO",
    "ESTALE",
    "ENOENT",
    "ENOTDIR",
)


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


def describe_failure(error: BaseException) -> str:
    """Return in a few words why a file could not be read or written, such as "No space left on device"."""
    text = str(error)
    for name in _DISK_FAULTS:
        words = os.strerror(getattr(errno, name))
        if words in text:
            return words
    first = next(iter(text.splitlines()), "") or type(error).__name__
    return first if len(first) <= 160 else f"{first[:160]} ..."


def nearest(word: str, names: Iterable[str]) -> str:
    """Return the name nearest to a mistyped word in any case of letters, or "" if none is near."""
    folded: dict[str, str] = {}
    for name in names:
        folded.setdefault(name.casefold(), name)
    near = difflib.get_close_matches(word.casefold(), list(folded), n=1, cutoff=0.6)
    return folded[near[0]] if near else ""


def did_you_mean(word: str, names: Iterable[str], prefix: str = "") -> str:
    """Return "; did you mean NAME?" of the name nearest to a mistyped word, or "" if none is near."""
    near = nearest(word, names)
    return f"; did you mean {prefix}{near}?" if near else ""
