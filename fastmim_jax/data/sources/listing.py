"""Listing of folders, the same on every file system, without hidden entries."""

import os

from fastmim_jax.errors import UserError


def list_folder(folder: str) -> list[os.DirEntry]:
    """Return the visible entries of a folder by name, last first.

    Raises:
      UserError: no permission.
    """
    try:
        with os.scandir(folder) as entries:
            visible = [entry for entry in entries if not entry.name.startswith(".")]
    except PermissionError:
        raise UserError(
            f"No permission to read the folder {folder}; expected to list its images: "
            f"`chmod -R u+rX {folder}` or run as its owner."
        ) from None
    # Sorted, so that of two links to one folder every machine follows the same one.
    return sorted(visible, key=lambda entry: entry.name, reverse=True)


def subfolders(folder: str) -> list[str]:
    """Return the sorted names of the visible folders in a folder."""
    return sorted(entry.name for entry in list_folder(folder) if entry.is_dir())


def extension(name: str) -> str:
    """Return the extension of a file name in lower case, without its dot."""
    return os.path.splitext(name)[1].lower().removeprefix(".")
