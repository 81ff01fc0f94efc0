"""Exports appear complete: written beside their destination, and swapped with it in one step."""

import contextlib
import hashlib
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from fastmim_jax.errors import UserError
from fastmim_jax.export.destination.contents import has_contents, remove_listed, write_contents
from fastmim_jax.export.destination.renames import exchange, rename_new
from fastmim_jax.file_lock import try_lock
from fastmim_jax.io import remove_empty
from fastmim_jax.train.stop_signal import SIGNALS, Stopped

BESIDE = ".json"  # ends the name of the file that describes a program; they are swapped together
LOCK = "lock"

Check = Callable[[Path], None]  # raises UserError if a path must not be replaced
Fits = Callable[[Path, Path], bool]  # (program, description) -> whether they belong together


class Signals:
    """SIGTERM, SIGHUP and Ctrl-C in a `with` block raise an exception once, but not while they are held."""

    def __init__(self) -> None:
        self._held, self._pending, self._raised = True, 0, 0

    def __enter__(self) -> "Signals":
        try:
            self._before = {number: signal.signal(number, self._handle) for number in SIGNALS}
        except ValueError:  # only the main thread hears signals
            self._before = {}
        self._unraisable, sys.unraisablehook = sys.unraisablehook, self._swallowed
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        sys.unraisablehook = self._unraisable
        if self._pending:
            _raise(self._pending)

    def hold(self) -> None:
        """Let signals wait."""
        self._held = True

    def check(self) -> None:
        """Raise again for a signal whose exception a library has swallowed."""
        if self._raised:
            _raise(self._raised)

    def release(self) -> None:
        """Let signals raise from here on, and one that has waited."""
        self._held = False
        if self._pending:
            self._handle(self._pending, None)

    def _swallowed(self, found: Any) -> None:
        """Print no traceback of a signal that came in a callback, which cannot raise; see `check`."""
        if not issubclass(found.exc_type, (Stopped, KeyboardInterrupt)):
            self._unraisable(found)

    def _handle(self, number: int, _: FrameType | None) -> None:
        if self._held:
            self._pending = number
            return
        self._held, self._pending, self._raised = True, 0, number
        _raise(number)


def _raise(number: int) -> None:
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise Stopped(signal.Signals(number).name)


@contextlib.contextmanager
def staged(destination: Path, check: Check, fits: Fits) -> Iterator[Path]:
    """Yield a path to write a file or a folder at, which becomes the destination when the block ends.

    Whatever ends the process, the destination is the old one or the new one, at the latest after
    `clean_leftovers`. An error or a signal leaves nothing else behind. A folder gets its list of contents.

    Args:
      check: called with the destination right before and after the swap.
      fits: whether the JSON file beside a program describes it.

    Raises:
      UserError: the destination cannot be written, or must not be replaced.
      Stopped, KeyboardInterrupt: a signal came.
    """
    made = [folder for folder in destination.parents if not folder.exists()]
    with Signals() as signals:
        try:
            with _open(destination) as staging:
                _clean(staging, destination, fits)  # of a conversion that was killed
                try:
                    signals.release()
                    yield staging / "new" / destination.name
                    _finish(staging / "new")
                    signals.hold()
                    signals.check()
                    _swap(staging, destination, check, fits)
                    made = []
                finally:
                    signals.hold()
                    _clean(staging, destination, fits)
        except OSError as error:
            raise UserError(
                f"{destination} cannot be written ({error.strerror or error}): nothing was changed"
            ) from error
        finally:
            remove_empty(made)


def clean_leftovers(destination: Path, fits: Fits) -> None:
    """Bring the destination of an interrupted conversion to the old or the new state, and remove the rest.

    Raises:
      UserError: another process writes the destination.
    """
    if staging_folder(destination).exists():
        with _open(destination) as staging:
            _clean(staging, destination, fits)


def staging_folder(destination: Path) -> Path:
    """Return the hidden folder in which a destination is written: beside it, on the same file system."""
    digest = hashlib.sha256(os.fsencode(destination.name)).hexdigest()[:8]
    return destination.absolute().with_name(f".{destination.name[:20]}-{digest}.fastmim")


@contextlib.contextmanager
def _open(destination: Path) -> Iterator[Path]:
    """Create the staging folder of a destination, or open the one of a dead process, and lock it."""
    folder = staging_folder(destination)
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        if (
            folder.is_symlink()
            or not folder.is_dir()
            or (os.listdir(folder) and not (folder / LOCK).exists())
        ):
            raise UserError(
                f"{folder} is in the way, which convert has not written: move it, or type another "
                "destination"
            ) from None
    with (folder / LOCK).open("a") as file:
        if not try_lock(file):
            raise UserError(
                f"another fastmim convert writes {destination}: wait until it ends, or type another "
                "destination"
            )
        for name in ("new", "old"):
            (folder / name).mkdir(exist_ok=True)
        try:
            yield folder
        finally:
            for name in ("new", "old"):
                with contextlib.suppress(OSError):
                    (folder / name).rmdir()
            (folder / LOCK).unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                folder.rmdir()


def _finish(new: Path) -> None:
    """Write the list of contents of an export that is a folder, and everything to the disk."""
    for path in new.iterdir():
        if path.is_dir():
            write_contents(path)
    for path in (*new.rglob("*"), new):
        number = os.open(path, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def _swap(staging: Path, destination: Path, check: Check, fits: Fits) -> None:
    """Put the new export in the place of the old one, if any."""
    new, old = staging / "new" / destination.name, staging / "old" / destination.name
    check(destination)
    beside = _beside(destination)
    if beside.is_file() and fits(destination, beside):
        os.rename(beside, _beside(old))
    if not os.path.lexists(destination):
        rename_new(new, destination)
    elif exchange(new, destination):
        os.rename(new, old)
    elif destination.is_dir() or new.is_dir():
        os.rename(destination, old)
        try:
            os.rename(new, destination)
        except OSError:
            os.rename(old, destination)
            raise
    else:
        os.replace(new, destination)
    if os.path.lexists(old):
        try:
            check(old)
        except UserError:  # changed in the last moment
            if exchange(old, destination):
                raise
    if _beside(new).exists():
        rename_new(_beside(new), beside)


def _clean(staging: Path, destination: Path, fits: Fits) -> None:
    """Complete an interrupted swap and empty the staging folder."""
    new, old = staging / "new" / destination.name, staging / "old" / destination.name
    if os.path.lexists(old) and not os.path.lexists(destination):
        os.rename(old, destination)
    for found in (_beside(new), _beside(old)):
        if found.exists() and not os.path.lexists(_beside(destination)) and fits(destination, found):
            os.rename(found, _beside(destination))
    for path in (new, old):
        _remove(path, destination, unfinished=path == new)
    for folder in (new.parent, old.parent):
        for path in folder.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _remove(path: Path, destination: Path, unfinished: bool) -> None:
    """Delete an export of ours; files in a complete one that are not its own become NAME-kept."""
    if not os.path.lexists(path):
        return
    if not path.is_dir():
        path.unlink()
    elif has_contents(path):
        if not remove_listed(path):
            _keep(path, destination)
    elif unfinished:
        shutil.rmtree(path)
    elif any(found.is_file() for found in path.rglob("*")):
        _keep(path, destination)


def _keep(path: Path, destination: Path) -> None:
    """Move what was added to an export while it was replaced to a visible place."""
    number = 1
    while os.path.lexists(place := destination.with_name(f"{destination.name}-kept-{number}")):
        number += 1
    os.rename(path, place)


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.name}{BESIDE}")
