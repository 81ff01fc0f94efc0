"""Keep the tracebacks of failed saves off the terminal: `Checkpoints` reports each in a sentence."""

import logging
import sys
from typing import Any


def mute_failed_saves() -> None:
    """Drop what Orbax logs, and what TensorStore prints from threads whose event loop has ended."""
    logging.getLogger("absl").addFilter(lambda record: "orbax" not in record.pathname)
    logging.getLogger("asyncio").addFilter(lambda record: "never retrieved" not in record.getMessage())
    before = sys.unraisablehook

    def report(unraisable: Any) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            before(unraisable)

    sys.unraisablehook = report
