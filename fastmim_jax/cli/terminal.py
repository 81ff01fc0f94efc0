"""Lines on a terminal: names that it cannot show, and the package's warnings."""

import io
import logging
import sys
from collections.abc import Callable


def escape_unprintable() -> None:
    """Escape what the terminal cannot show, such as names of files, so that it ends no command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


class _PrintOnce(logging.Handler):
    """Print each message once, on the first process; those with `every_process` on the one they are of."""

    def __init__(self, edit: Callable[[str], str]) -> None:
        super().__init__()
        self._edit = edit
        self._printed: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        text, jax = self._edit(record.getMessage()), sys.modules.get("jax")
        shown = jax is None or jax.process_index() == 0 or getattr(record, "every_process", False)
        if shown and text not in self._printed:
            print(text, file=sys.stderr, flush=True)
        self._printed.add(text)


def print_warnings(edit: Callable[[str], str] = str) -> None:
    """Print the package's warnings, each once, edited such as by `Command.as_typed`."""
    package_log = logging.getLogger("fastmim_jax")
    package_log.handlers, package_log.propagate = [_PrintOnce(edit)], False
