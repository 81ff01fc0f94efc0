"""Messages of libraries about damaged files that they decode all the same, with the name of the file.

libtiff prints to stderr, in the midst of other lines and without a name, Pillow and tifffile by Python's
warnings and log. Here they are noted in the thread that decodes; a file that cannot be decoded is reported
with its reason anyway.
"""

import ctypes
import functools
import logging
import re
import threading
import warnings
from pathlib import Path
from typing import Any

import PIL.Image  # noqa: F401  # it loads libtiff

from fastmim_jax.paths import to_text

_LOG = logging.getLogger(__name__)
_MAX_PRINTED = 5  # files per process
_MAPS = Path("/proc/self/maps")  # of the libraries that are loaded; Linux alone
_HANDLER = ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_void_p)


class _Thread(threading.local):
    record: tuple[Any, int] | None = None  # source and index of the record that was read last
    message: str = ""  # the first about this record


class _Printed:
    """Names of the files that a line was printed for."""

    def __init__(self) -> None:
        self.names: set[str] = set()
        self.lock = threading.Lock()


_THREAD, _PRINTED = _Thread(), _Printed()


def begin_record(source: Any, index: int) -> None:
    """Note that this thread decodes record `index` of a source from now on."""
    _THREAD.record = source, index


def begin_decoding() -> None:
    """Drop the messages about earlier files in this thread."""
    _THREAD.message = ""


def has_message() -> bool:
    """Return whether there is a message about the file that this thread has decoded."""
    return bool(_THREAD.message)


def report() -> None:
    """Log the first message about the file that this thread has decoded, for the first few files."""
    if not _THREAD.message:
        return
    name = _record_name()
    with _PRINTED.lock:
        if name in _PRINTED.names or len(_PRINTED.names) > _MAX_PRINTED:
            return
        _PRINTED.names.add(name)
        last = len(_PRINTED.names) > _MAX_PRINTED
    text = "further images that are read with such messages are not named" if last else _THREAD.message
    _LOG.warning(text if last else f"{name}: read, {text}")


@functools.cache
def name_messages() -> None:
    """Let `report` log the messages of libtiff, Pillow and tifffile, in this process, from now on."""
    _take_libtiff()
    logger = logging.getLogger("tifffile")
    logger.addHandler(_Note())
    logger.propagate = False
    warnings.showwarning = functools.partial(_show_warning, warnings.showwarning)


def note(text: str) -> None:
    """Note a message about the file that this thread decodes; the first one of a file counts."""
    _THREAD.message = _THREAD.message or " ".join(text.split())[:200]


def _take_libtiff() -> None:
    """Set libtiff's error handler; where it is not found, it prints as before."""
    maps = _MAPS.read_text() if _MAPS.exists() else ""
    found = re.search(r"/.*/libtiff[^/\n]*\.so[^/\n]*$", maps, re.MULTILINE)
    if not found:
        return
    try:
        ctypes.CDLL(found[0]).TIFFSetErrorHandler(_on_libtiff_error)
    except (OSError, AttributeError):
        return


@_HANDLER
def _on_libtiff_error(module: bytes | None, template: bytes | None, values: int | None) -> None:
    buffer = ctypes.create_string_buffer(256)
    ctypes.CDLL(None).vsnprintf(buffer, ctypes.c_size_t(256), template, ctypes.c_void_p(values))
    note(f"perhaps damaged: libtiff: {buffer.value.decode(errors='replace')}")


class _Note(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        note(f"perhaps damaged: tifffile: {record.getMessage()}")


def _show_warning(
    show: Any, message: Any, category: Any, filename: str, *more: Any, **options: Any
) -> None:
    if "/PIL/" in filename:
        note(f"perhaps damaged: Pillow: {message}")
    else:
        show(message, category, filename, *more, **options)


def _record_name() -> str:
    if _THREAD.record is None:
        return "an image"
    source, index = _THREAD.record
    try:
        return to_text(source.name(index))
    except Exception:  # the name may be stored inside the record that is damaged
        return f"record {index}"
