"""The destination of an export: apart from its source, and nothing of the user's is in its place."""

import os
from pathlib import Path

from fastmim_jax.errors import UserError
from fastmim_jax.export.destination.contents import FILE, find_foreign, has_contents
from fastmim_jax.export.destination.staging import BESIDE
from fastmim_jax.export.files.signature import is_signed
from fastmim_jax.export.formats import LIBRARIES
from fastmim_jax.export.programs.onnx import is_unchanged
from fastmim_jax.export.programs.stablehlo import describes
from fastmim_jax.paths import describe_kind, local_path

ARRAY_FILES = (".pth", ".safetensors")
OTHER_FILES = (".pt", ".bin", ".ckpt", ".tar", ".npz", ".h5", ".onnx", ".msgpack")
FOLDERS = tuple(name for name, library in LIBRARIES.items() if library.folder)
PROGRAMS = ("stablehlo", "onnx")
SHOWN = 3  # names in a message
_EARLIER = ("conversion.json", "model.safetensors")  # in folders of versions that wrote no list
_INSTEAD = "type another destination, or move or delete it yourself; nothing was changed"


def is_folder(destination: Path, to: str) -> bool:
    """Return whether --to= writes a folder at a destination; otherwise a file."""
    return to not in PROGRAMS and destination.suffix not in ARRAY_FILES


def check_name(destination: Path, to: str) -> None:
    """Check that --to= is known and writes what the name of the destination says.

    Raises:
      UserError: it is not, or does not.
    """
    choices = (*LIBRARIES, *PROGRAMS)
    if to and to not in choices:
        raise UserError(f"unknown --to={to}; choose from: {', '.join(choices)}")
    if destination.suffix in OTHER_FILES and to not in PROGRAMS:
        raise UserError(
            f"{destination} has a suffix that is not written here: type a name that ends in "
            f"{' or '.join(ARRAY_FILES)}, such as {destination.with_suffix('.pth')}, or the name of a "
            "folder"
        )
    if to and to not in (*FOLDERS, *PROGRAMS) and destination.suffix not in ARRAY_FILES:
        raise UserError(
            f"--to={to} writes a file, and {destination} ends in neither {' nor '.join(ARRAY_FILES)}: "
            f"type {destination}.safetensors"
        )


def check_apart(source: str | Path, destination: Path) -> None:
    """Check that a destination is neither its source nor a folder around or in it, nor where the user is.

    Raises:
      UserError: it is, or it is a link.
    """
    if os.path.islink(destination):
        raise UserError(
            f"{destination} is a link to {os.readlink(destination)}, expected a name of its own: type "
            f"{os.path.realpath(destination)}, or another destination"
        )
    ours = os.path.realpath(destination)
    for name, place in (("current", os.getcwd()), ("home", os.path.expanduser("~"))):
        if _holds(ours, os.path.realpath(place)):
            raise UserError(
                f"{destination} is the {name} folder or holds it: type the name of a new file or folder"
            )
    source = Path(local_path(source))
    is_checkpoint = source.name.isdecimal() and (source.parent.parent / "config.json").exists()
    theirs = os.path.realpath(source.parent.parent if is_checkpoint else source)
    if ours == theirs:
        raise UserError(f"{destination} is the source: type another destination")
    if _holds(ours, theirs):
        raise UserError(f"{destination} holds the source {source}: type a destination outside of it")
    if _holds(theirs, ours):
        raise UserError(f"{destination} lies in the source {source}: type a destination outside of it")


def check_replaceable(path: Path, folder: bool, described: bool = False) -> None:
    """Check that a path is free, or an export of ours that nobody has changed.

    Args:
      folder: a folder is to be written there; otherwise a file.
      described: a JSON file is to be written beside the file.

    Raises:
      UserError: something else is there.
    """
    beside = path.with_name(f"{path.name}{BESIDE}")
    if described and os.path.lexists(beside) and not describes(path, beside):
        raise UserError(
            f"{beside} is in the way, which does not describe an unchanged {path.name}: {_INSTEAD}"
        )
    if not os.path.lexists(path):
        return
    wanted, found = "a folder" if folder else "a file", describe_kind(path)
    if found != wanted:
        raise UserError(f"{path} is {found}, expected {wanted} or nothing: {_INSTEAD}")
    if folder:
        _check_folder(path)
    elif not is_export_file(path):
        raise UserError(
            f"{path} is a file that convert has not written, or that was changed since: {_INSTEAD}"
        )


def is_export_file(path: Path) -> bool:
    """Return whether a file was written by convert and is unchanged."""
    if path.suffix in ARRAY_FILES and is_signed(path):
        return True
    return describes(path, path.with_name(f"{path.name}{BESIDE}")) or is_unchanged(path)


def _check_folder(path: Path) -> None:
    if not os.listdir(path):
        return
    if not has_contents(path):
        earlier = any((path / name).exists() for name in _EARLIER)
        seen = "has no list of its files, as earlier versions of convert wrote none" * earlier
        raise UserError(
            f"{path} {seen or 'is a folder that convert has not written'} (expected {FILE} in it): "
            f"{_INSTEAD}"
        )
    foreign = find_foreign(path)
    if foreign:
        shown = ", ".join(foreign[:SHOWN]) + (
            f" and {len(foreign) - SHOWN:,} more" * (len(foreign) > SHOWN)
        )
        raise UserError(f"{path} has what convert did not write there ({shown}): {_INSTEAD}")


def _holds(folder: str, path: str) -> bool:
    return os.path.commonpath([folder, path]) == folder
