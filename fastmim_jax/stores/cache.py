"""Copies of what lies in object stores, in this machine's cache: fetched once, then only what changed."""

import contextlib
import fcntl
import hashlib
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from fastmim_jax.errors import UserError
from fastmim_jax.io import read_json, write_json
from fastmim_jax.stores.store import Object, Store, StoreError
from fastmim_jax.stores.transfer import check_names, describe_size, download_all

_LOG = logging.getLogger("fastmim_jax.stores")
SPARED = 2**30  # bytes of the disk that are left free
INDEX = "index.json"  # {name: [size, tag]} of the files that are there


def cache_folder(kind: str, address: str) -> Path:
    """Return the folder of an address: $XDG_CACHE_HOME/fastmim_jax/KIND/NAME-HASH, by default in ~/.cache.

    kind: "data", "runs" or "workdirs".
    """
    caches = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser().absolute()
    name = re.sub(r"[^\w.-]+", "-", address.partition("://")[2]).strip("-.")[-60:] or "root"
    return caches / "fastmim_jax" / kind / f"{name}-{hashlib.sha256(address.encode()).hexdigest()[:8]}"


def open_lock_file(folder: Path, address: str) -> IO:
    """Open the lock file of the copy of an address, in a folder that is made if need be.

    Raises:
      UserError: the folder cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return (folder / ".lock").open("a+")
    except OSError as error:
        raise UserError(
            f"{folder}, for the files of {address}, cannot be made ({error.strerror}): set XDG_CACHE_HOME "
            "to a folder that can be written to"
        ) from error


@contextlib.contextmanager
def folder_lock(folder: Path, address: str) -> Iterator[None]:
    """Let one process at a time fill a folder; the others wait; see `open_lock_file`."""
    with open_lock_file(folder, address) as file:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def check_space(address: str, size: int, folder: Path) -> None:
    """Raise UserError if so many bytes more do not fit on the disk of a folder."""
    free = shutil.disk_usage(folder).free
    if size > free - SPARED:
        raise UserError(
            f"{address} takes {describe_size(size)} more, and {folder} has {describe_size(free)} free: set "
            "XDG_CACHE_HOME to a folder on a larger disk"
        )


def cached_copy(
    address: str,
    typed: str = "",
    wanted: Callable[[str], bool] = lambda name: True,
    kind: str = "data",
    key: str = "",
) -> Path:
    """Return a local copy of an object, or of the folder of all objects below an address.

    Objects whose size and tag are those of the last time are not fetched again. The sizes, and where they
    go, are warnings of the logger "fastmim_jax.stores", which the commands print.

    Args:
      address: of the objects.
      typed: what stands before the address in a message.
      wanted: name -> whether to fetch an object.
      key: of the copy, where it is not that of all objects.

    Raises:
      UserError: there is nothing, it cannot be read, or it does not fit on the disk.
    """
    store, folder = Store(address, typed), cache_folder(kind, key or address)
    try:
        objects = {name: x for name, x in store.list().items() if wanted(name)}
        if not objects:
            raise UserError(
                f"{typed}{address} does not exist, expected objects there: type another address"
            )
        check_names(store, objects)
        with folder_lock(folder, address):
            return _update(store, objects, folder)
    except StoreError as error:
        raise UserError(f"{typed}{address} cannot be read ({error}): {how_to_reach(address)}") from error


def how_to_reach(address: str) -> str:
    """Return what to do where an address cannot be reached or is refused."""
    commands = {
        "gs": "type gcloud auth application-default login, or give this machine access to the bucket",
        "s3": "type aws configure, or give this machine access to the bucket",
    }
    return commands.get(address.partition("://")[0], "check the address and this machine's access to it")


def _update(store: Store, objects: dict[str, Object], folder: Path) -> Path:
    """Make the files of a folder those of a listing, and return the file or the folder."""
    name = store.address.rstrip("/").rpartition("/")[2] or "root"
    files = folder / name

    def path_of(x: str) -> Path:
        return files / x if x else files

    index = _read_index(folder)
    present = {
        x: tuple(index[x])
        for x in index
        if x in objects and tuple(index[x]) == objects[x] and _has_size(path_of(x), objects[x].size)
    }
    missing = {x: found for x, found in objects.items() if x not in present}
    for gone in index.keys() - objects.keys():
        path_of(gone).unlink(missing_ok=True)
    if missing:
        size = sum(x.size for x in missing.values())
        check_space(store.address, size, folder)
        there = f"; {len(present):,} are there already" if present else ""
        _LOG.warning(
            f"fetching {store.address} into {folder}: {len(missing):,} "
            f"{'file' if len(missing) == 1 else 'files'}, {describe_size(size)}{there}"
        )
        kept = {x: list(facts) for x, facts in present.items()}
        try:
            download_all(
                store, missing, path_of, _LOG.warning, lambda x: kept.update({x: list(objects[x])})
            )
        finally:
            write_json(folder / INDEX, kept, indent=None)
    return files


def _read_index(folder: Path) -> dict[str, list]:
    try:
        index = read_json(folder / INDEX, dict, "an index")
    except UserError:
        return {}
    return {x: facts for x, facts in index.items() if isinstance(facts, list) and len(facts) == 2}


def _has_size(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size
