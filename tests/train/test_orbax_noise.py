"""Only the tracebacks that a sentence replaces are muted."""

import logging
import sys
from types import SimpleNamespace

from fastmim_jax.train.orbax_noise import mute_failed_saves


def test_other_messages_and_exceptions_pass(monkeypatch):
    passed = []
    monkeypatch.setattr(sys, "unraisablehook", passed.append)
    loggers = {name: logging.getLogger(name) for name in ("absl", "asyncio")}
    for logger in loggers.values():
        monkeypatch.setattr(logger, "filters", [])
    mute_failed_saves()

    def heard(name, path, text):
        return loggers[name].filter(logging.LogRecord(name, logging.ERROR, path, 1, text, None, None))

    assert heard("absl", "/site-packages/jax/core.py", "x") and heard(
        "asyncio", "tasks.py", "slow callback"
    )
    assert not heard("absl", "/site-packages/orbax/checkpoint/manager.py", "x")
    assert not heard("asyncio", "tasks.py", "_GatheringFuture exception was never retrieved")
    for text in ("Event loop is closed", "other"):
        sys.unraisablehook(SimpleNamespace(exc_value=RuntimeError(text)))
    assert [str(unraisable.exc_value) for unraisable in passed] == ["other"]
