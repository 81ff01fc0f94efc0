"""Paths that users type: resolved, or refused in one sentence; and names of files as text."""

import contextlib
import os
import re
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path

from fastmim_jax.errors import UserError

# Remote storage that could be opened later, and the web. A scheme has at least two letters: C:/ is a drive.
_REMOTE = re.compile(r"([a-z][a-z0-9+.-]+)://|(gs|s3|http|https|hf|az|abfss|hdfs|file):/", re.IGNORECASE)
# Storage that `fastmim_jax.stores` can open: a whole scheme, but not the web and not this machine.
_STORE = re.compile(r"(?!(?:https?|ftp|file|local)://)[a-z][a-z0-9+.-]+://(?=[^/])", re.IGNORECASE)
_VARIABLE = re.compile(r"\$([a-zA-Z_]\w*|\{[^}]*\})", re.ASCII)
_SURROGATE = re.compile("[\ud800-\udfff]")
_ESCAPED = re.compile(r"\\\\|\\x[89a-f][0-9a-f]")


def local_path(path: str | os.PathLike, typed: str = "") -> str:
    """Return a path of this machine with "~" and environment variables replaced.

    Every path that a user types goes through here, for reading and for writing.

    Args:
      typed: what stands before the path in a message, such as "--out=".

    Raises:
      UserError: a bucket or web address, an environment variable that is not set, an unknown user, or a
        NUL character.
    """
    text = os.fspath(path)
    if is_remote(text):
        scheme, _, rest = text.partition(":")
        advice = (
            f"type {typed}/{rest.lstrip('/')}"
            if scheme.lower() == "file"
            else f"copy or mount it and type its folder or file here, such as {typed}/data/NAME"
        )
        raise UserError(f"{typed}{text} is an address ({scheme}:), expected a local path: {advice}")
    if "\0" in text:
        raise UserError(f"{typed}{text!r} holds a NUL character, expected a path: type it without")
    expanded = os.path.expanduser(os.path.expandvars(text))
    if expanded.startswith("~") and not os.path.lexists(expanded):
        raise UserError(
            f"{typed}{text}: no user here is called {expanded.split('/')[0][1:] or '?'}, expected "
            f"~ or ~USER: type {typed}./{text} for a folder of this name"
        )
    unset = _VARIABLE.search(expanded) if _VARIABLE.search(text) else None
    if unset and not os.path.lexists(expanded):
        raise UserError(
            f"{typed}{text}: the environment variable {unset[1].strip('{}')} is not set, expected a "
            "path in it: set it, or type the path"
        )
    return expanded


def utf8_path(path: str | os.PathLike, typed: str = "") -> str:
    """Return a local path whose name is UTF-8, as libraries that write folders need it.

    Raises:
      UserError: it is not, or see `local_path`.
    """
    text = local_path(path, typed)
    if _SURROGATE.search(os.path.abspath(text)):
        seen = to_text(os.path.abspath(text))
        raise UserError(f"{typed}{seen} is not UTF-8, expected a name that is: type another path")
    return text


def is_remote(path: str | os.PathLike) -> bool:
    """Return whether a path is an address with a scheme, such as gs://bucket/run, s3:// or https://."""
    return _REMOTE.match(os.fspath(path)) is not None


def is_store(path: str | os.PathLike) -> bool:
    """Return whether a path is an address in an object store, such as gs://bucket/run or s3://bucket."""
    return _STORE.match(os.fspath(path)) is not None


def place(path: str | os.PathLike, typed: str = "") -> str:
    """Return a path of this machine, see `local_path`, or an address in an object store.

    The scheme of an address becomes lower case, and slashes at its end are left out.

    Raises:
      UserError: see `local_path`.
    """
    text = os.fspath(path)
    if not is_store(text):
        return local_path(text, typed)
    scheme, _, rest = text.partition("://")
    return f"{scheme.lower()}://{rest.rstrip('/')}"


def absolute_place(path: str | os.PathLike, typed: str = "") -> str:
    """Return a path as every working directory can use it, or an address in an object store.

    Raises:
      UserError: see `local_path`.
    """
    text = place(path, typed)
    return text if is_store(text) else os.path.abspath(text)


def describe_kind(path: str | os.PathLike) -> str:
    """Return what stands at a path: "a file", "a folder", "a FIFO", "a link to nothing" ..., or ""."""
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return "a link to itself or to nothing" if os.path.islink(path) else ""
    kinds = {
        stat.S_ISREG: "a file",
        stat.S_ISDIR: "a folder",
        stat.S_ISFIFO: "a FIFO",
        stat.S_ISSOCK: "a socket",
    }
    return next((kind for is_kind, kind in kinds.items() if is_kind(mode)), "a device")


def check_output(
    path: str | os.PathLike,
    typed: str = "",
    folder: bool = False,
    is_result: Callable[[Path], bool] = lambda path: True,
) -> None:
    """Check that a file, or a folder, can be written; nothing is left behind.

    Long commands call it before they begin, so that no result is lost at their end.

    Args:
      typed: what stands before the path in a message, such as "--out=".
      folder: the path is a folder to make or fill.
      is_result: whether a file that is there, and not empty, is an older result, which may be replaced.

    Raises:
      UserError: something else is there, or its folder cannot be made or written to.
    """
    text = local_path(path, typed)
    target, wanted = Path(text), "a folder" if folder else "a file"
    found = describe_kind(target)
    if found not in ("", wanted) and not found.startswith("a link"):
        raise UserError(f"{typed}{text} is {found}, expected the name of {wanted}: type another name")
    if not folder and text.endswith("/"):
        raise UserError(f"{typed}{text} ends with a slash, expected the name of a file: type another name")
    if found == "a file" and target.stat().st_size and not is_result(target):
        raise UserError(
            f"{typed}{text} is a file that this command has not written: type another name, or delete it "
            "yourself; nothing was changed"
        )
    made: list[Path] = []
    try:
        for parent in [x for x in reversed(target.parents) if not x.exists()]:
            parent.mkdir(exist_ok=True)
            made.insert(0, parent)
        place = target if folder and target.exists() else target.parent
        with tempfile.TemporaryDirectory(prefix=".", dir=place) as trial:
            Path(trial, target.name).touch()
    except OSError as error:
        raise UserError(
            f"{typed}{text} cannot be written ({error.strerror}): expected a folder that can be written "
            "to, type another path"
        ) from error
    finally:
        with contextlib.suppress(OSError):  # another process has filled it
            for parent in made:
                parent.rmdir()


def to_text(name: str) -> str:
    r"""Return the name of a file as text that UTF-8 can hold; reversible, see `from_text`.

    Bytes that are not UTF-8 become \xNN; in these names, and those that look like one, backslashes double.

    >>> to_text("caf\udce9"), to_text("caf\u00e9"), to_text("caf\\xe9")
    ('caf\\xe9', 'café', 'caf\\\\xe9')
    """
    if not _SURROGATE.search(name) and not _ESCAPED.search(name):
        return name
    doubled = name.replace("\\", "\\\\")
    try:
        return doubled.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # surrogates that stand for no byte: not the name of a file
        return doubled.encode("utf-8", "backslashreplace").decode()


def from_text(text: str) -> str:
    """Return the name of the file that `to_text` wrote as a text."""
    if not _ESCAPED.search(text):
        return text
    return _ESCAPED.sub(lambda x: "\\" if x[0] == r"\\" else os.fsdecode(bytes.fromhex(x[0][2:])), text)
