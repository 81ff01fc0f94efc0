"""Read a run, or a checkpoint of any kind, that lies at an address: a copy in this machine's cache."""

import logging

from fastmim_jax.errors import UserError
from fastmim_jax.paths import is_store
from fastmim_jax.run_folder import BEST, CHECKPOINTS, CONFIG
from fastmim_jax.stores.cache import cache_folder, cached_copy, folder_lock, how_to_reach
from fastmim_jax.stores.store import Store, StoreError
from fastmim_jax.train.remote.fetch import fetch_newest, fetch_small_files
from fastmim_jax.train.remote.layout import FOLDERS

_LOG = logging.getLogger("fastmim_jax.stores")


def local_run(path: str, step: int | None = None) -> str:
    """Return the path of a run or checkpoint, or of its local copy if it is an address.

    Of a run its small files are fetched, and the checkpoint that `load_run` would read. What is no run,
    such as a published file, is fetched whole.

    Args:
      path: a path of this machine; or an address of a run, of one checkpoint in it, or of a file or folder.
      step: of a checkpoint in a run; None for its best one, or else its newest.

    Raises:
      UserError: it cannot be read, or has no such checkpoint.
    """
    if not is_store(path):
        return path
    root, kind, step = _divide(path, step)
    store = Store(root)
    try:
        objects = store.list()
        if CONFIG not in objects or not any(name.startswith(FOLDERS) for name in objects):
            return str(cached_copy(path, kind="runs"))
        folder = cache_folder("runs", root)
        with folder_lock(folder, root):
            fetch_small_files(store, objects, folder, reading=True)
            found = None
            if kind is None and step is None:
                found = fetch_newest(store, objects, folder, BEST, _LOG.warning)
            if found is None:
                found = fetch_newest(store, objects, folder, kind or CHECKPOINTS, _LOG.warning, step)
    except StoreError as error:
        raise UserError(f"{path} cannot be read ({error}): {how_to_reach(path)}") from error
    if found is None:
        which = "no checkpoint" if step is None else f"no whole checkpoint of step {step:,}"
        raise UserError(
            f"{root} has {which} yet: wait until the run has uploaded it, or type another --step"
        )
    return str(folder / path[len(root) + 1 :])


def _divide(path: str, step: int | None) -> tuple[str, str | None, int | None]:
    """-> the address of a run, the folder of checkpoints and the step; see `find_checkpoint`."""
    head, _, last = path.rpartition("/")
    root, _, folder = head.rpartition("/")
    if last.isdecimal() and folder in FOLDERS and is_store(root):
        return root, folder, int(last)
    if last in (CONFIG, *FOLDERS) and is_store(head):
        return head, last if last in FOLDERS else None, step
    return path, None, step
