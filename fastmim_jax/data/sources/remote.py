"""Data sets in object stores: fetched into this machine's cache, then read like any other."""

import fnmatch
import functools
import os

from fastmim_jax.data.sources.listing import extension
from fastmim_jax.data.sources.shards import expand_braces
from fastmim_jax.errors import UserError
from fastmim_jax.paths import is_store
from fastmim_jax.stores.cache import cached_copy


def local_data(path: str) -> str:
    """Return the path of a data set, or of its local copy if it is an address such as gs://bucket/photos.

    An address is that of a folder, of a file, or a pattern such as gs://bucket/shard-{000..012}.tar. It is
    listed once in a process. TFDS data sets are tfds:NAME:ADDRESS.

    Raises:
      UserError: it cannot be read; see `stores.cache.cached_copy`.
    """
    if path.startswith("tfds:"):
        name, _, folder = path.removeprefix("tfds:").partition(":")
        if not is_store(folder):
            return path
        inside = name.partition(":")[0]
        copy = _fetch(f"{folder}/{inside}")
        return f"tfds:{name}:{copy.removesuffix('/' + inside)}"
    return _fetch(path) if is_store(path) else path


@functools.cache
def _fetch(address: str) -> str:
    parent, _, last = address.rpartition("/")
    if extension(address) == "txt":
        raise UserError(
            f"{address} is a list of images, whose files lie elsewhere: type their folder, such as {parent}"
        )
    if "{" not in last and "*" not in last:
        return str(cached_copy(address))
    patterns = expand_braces(last)

    def wanted(name: str) -> bool:
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)

    return os.path.join(cached_copy(parent, wanted=wanted, key=address), last)
