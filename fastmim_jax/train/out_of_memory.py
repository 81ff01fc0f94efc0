"""Errors for lack of memory: recognised in any library, and turned into a sentence."""

import contextlib
from collections.abc import Callable, Iterator

import jax

from fastmim_jax.errors import OutOfMemoryError, UserError

# Of XLA, and of threads and processes that cannot be started.
SIGNS = ("RESOURCE_EXHAUSTED", "Out of memory", "out of memory", "Failed to allocate", "bad_alloc")
THREAD_SIGNS = ("can't start new thread", "Cannot allocate memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error was raised for lack of memory."""
    if isinstance(error, MemoryError):
        return True
    if isinstance(error, jax.errors.JaxRuntimeError):
        return any(sign in str(error) for sign in SIGNS)
    if isinstance(error, (RuntimeError, OSError, ValueError)):
        return any(sign in str(error) for sign in (*SIGNS[:1], *THREAD_SIGNS))
    return False


@contextlib.contextmanager
def refuse_out_of_memory(what_to_type: Callable[[], str]) -> Iterator[None]:
    """Turn an error for lack of memory into a sentence.

    Args:
      what_to_type: returns the end of the sentence, when there is such an error.

    Raises:
      OutOfMemoryError: there was such an error.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemoryError(sentence(error, what_to_type())) from error


def sentence(error: BaseException, what_to_type: str) -> str:
    """Return the sentence on an error for lack of memory; what_to_type: its end."""
    return f"out of memory ({_first_line(error)}): {what_to_type}"


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".:")[:200] if lines else type(error).__name__
