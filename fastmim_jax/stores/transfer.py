"""Copy many objects to files, several at a time."""

import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path, PurePosixPath

from fastmim_jax.errors import UserError
from fastmim_jax.stores.store import Object, Store, StoreError

AT_ONCE = 16  # transfers
SECONDS_BETWEEN_LINES = 20.0
TRIES = 4  # of one object


def describe_size(size: float) -> str:
    """Return a number of bytes as "3.4 GB", "12.0 MB" or "5 kB"."""
    for unit, power in (("GB", 9), ("MB", 6)):
        if size >= 10**power:
            return f"{size / 10**power:,.1f} {unit}"
    return f"{size / 1000:,.0f} kB"


def check_names(store: Store, names: Mapping[str, Object]) -> None:
    """Raise UserError if an object cannot be a file below a folder."""
    for name in names:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\0" in name:
            raise UserError(f"{store.address} has an object '{name}', expected names of files: rename it")
        if any(str(parent) in names for parent in path.parents):
            raise UserError(
                f"{store.address} has an object '{name}' and another one named like its folder: rename one"
            )


def download_all(
    store: Store,
    objects: Mapping[str, Object],
    path_of: Callable[[str], Path],
    log: Callable[[str], None],
    done: Callable[[str], None] = lambda name: None,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Copy objects to files; each appears there when it is complete.

    Args:
      path_of: name -> its file.
      log: prints a line, about three times a minute.
      done: called with the name of each that is complete.

    Raises:
      StoreError: one could not be copied after TRIES tries.
      UserError: the disk fails.
    """
    total, size = sum(x.size for x in objects.values()), 0
    last = clock()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        waiting = {pool.submit(_download, store, name, path_of(name)): name for name in objects}
        try:
            for count, future in enumerate(as_completed(waiting), 1):
                future.result()
                done(waiting[future])
                size += objects[waiting[future]].size
                if clock() - last > SECONDS_BETWEEN_LINES:
                    last = clock()
                    log(
                        f"{store.address}: {describe_size(size)} of {describe_size(total)} fetched, "
                        f"{count:,} of {len(objects):,} files"
                    )
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _download(store: Store, name: str, target: Path) -> None:
    temporary = target.with_name(f".{target.name[:200]}.fetching-{os.getpid()}")
    for attempt in range(1, TRIES + 1):
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            store.download(name, temporary)
            os.replace(temporary, target)
            return
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise UserError(
                f"{target} cannot be written ({error.strerror}): set XDG_CACHE_HOME to another folder"
            ) from error
        except StoreError:
            temporary.unlink(missing_ok=True)
            if attempt == TRIES:
                raise
            time.sleep(0.5 * 4 ** (attempt - 1))
