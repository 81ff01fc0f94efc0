"""Open the work directory of a run, wherever it is: a folder, or an address in an object store."""

import contextlib
import functools
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import jax

from fastmim_jax.errors import UserError
from fastmim_jax.file_lock import try_lock
from fastmim_jax.paths import is_store
from fastmim_jax.stores.cache import cache_folder, how_to_reach, open_lock_file
from fastmim_jax.stores.store import Store, StoreError
from fastmim_jax.train.peers import AgreedError, Peers, current_peers
from fastmim_jax.train.remote.fetch import fetch_newest, fetch_small_files, newest_local
from fastmim_jax.train.remote.layout import FOLDERS, checkpoints_of
from fastmim_jax.train.remote.lock import SECONDS_BETWEEN_BEATS, RemoteLock
from fastmim_jax.train.remote.mirror import Mirror
from fastmim_jax.train.state_files import repair
from fastmim_jax.train.stop_signal import Stopped
from fastmim_jax.train.workdir import OF_A_START, in_use

RUN_FILE = ".run"  # of a local copy: the run that it is of
SECONDS_OF_FAILURES = 600.0  # at the end, after which uploads are given up
Result = TypeVar("Result")
Log = Callable[[str], None]

_CURRENT: Mirror | None = None
_COPIED = False


def current_mirror() -> Mirror | None:
    """Return what uploads the run of this process, or None."""
    return _CURRENT


def flush_uploads(seconds: float) -> None:
    """Upload what the run of this process has written, for no longer than that, if it is mirrored."""
    if _CURRENT is not None:
        _CURRENT.flush(seconds)


def has_own_copy() -> bool:
    """Return whether each process of the run has a work directory of its own, a copy of an address."""
    return _COPIED


@contextlib.contextmanager
def open_workdir(
    workdir: str | os.PathLike, run: Any, log: Log = print, beat: float = SECONDS_BETWEEN_BEATS
) -> Iterator[Path]:
    """Yield the local folder of a work directory; that of an address is a copy in this machine's cache.

    The first process fetches what a run there needs to be resumed, and uploads meanwhile whatever the run
    writes; the others fetch copies of their own, and upload the files that only they write. At the end each
    waits until everything is uploaded: after a signal for no longer than the grace time.

    Args:
      workdir: a folder, or an address such as gs://bucket/runs/a.
      run: the section `config.run`.
      log: prints a line.
      beat: seconds between signs of life in the lock at an address.

    Raises:
      UserError: the address cannot be reached, another run is alive there, or uploads fail at the end.
    """
    global _COPIED
    peers = current_peers()
    if peers:
        _check_same(peers, str(workdir))
    if not is_store(workdir):
        yield Path(workdir)
        return
    if jax.process_count() > 1 and peers is None:
        raise UserError(
            f"--workdir={workdir} with several processes: start them by `fastmim --distributed`"
        )
    store = Store(str(workdir), "--workdir=")
    folder = _copy_folder(str(workdir), peers)
    _COPIED = True
    try:
        with _local_lock(folder, str(workdir)) as holder:
            if peers and peers.process:
                with _other_process(store, folder, run, log, peers):
                    yield folder
            else:
                with _first_process(store, folder, holder, run, log, beat, peers):
                    yield folder
    finally:
        _COPIED = False


def in_local_copy(function: Callable[..., Result]) -> Callable[..., Result]:
    """Let a function (config, workdir, ...) that trains work on an address too; see `open_workdir`."""

    @functools.wraps(function)
    def train(config: Any, workdir: str | os.PathLike, *args: Any, **options: Any) -> Result:
        if not is_store(workdir):
            return function(config, workdir, *args, **options)
        with open_workdir(workdir, config.run, options.get("log", print)) as folder:
            return function(config, folder, *args, **options)

    return train


@contextlib.contextmanager
def _first_process(
    store: Store, folder: Path, is_mine: Callable, run: Any, log: Log, beat: float, peers: Peers | None
) -> Iterator[None]:
    """Fetch, upload while the block runs, and wait for the last upload."""
    global _CURRENT
    lock = RemoteLock(store, beat, is_mine)
    mirror = Mirror(store, folder, run.keep, run.keep_every, may_write=lambda: lock.lost)
    with _reachable(store.address):
        lock.acquire(log)
    try:
        log(f"{store.address}: this host works in {folder} and uploads")
        with _reachable(store.address):
            kept = _fetch(store, folder, lock.run, log)
            mirror.assume(small=not kept)
            repair(folder, log)
            if peers:
                mirror.sync()
                peers.share("fetched", True)
        mirror.start()
        _CURRENT = mirror
        try:
            yield
        except BaseException as error:
            if isinstance(error, UserError):
                _empty_if_unused(folder)
            _end_interrupted(mirror, store, folder, run, log, error)
            raise
        _end(mirror, store, folder, log)
        if peers:
            peers.share("uploaded", True)
    finally:
        _CURRENT = None
        mirror.stop()
        lock.release()


@contextlib.contextmanager
def _other_process(store: Store, folder: Path, run: Any, log: Log, peers: Peers) -> Iterator[None]:
    """Fetch, upload the files of this process while the block runs, and wait for the last upload."""
    peers.share("fetched", True)
    with _reachable(store.address):
        _fetch_small(store, folder)
    mirror = Mirror(store, folder, process=peers.process)
    mirror.start()
    try:
        yield
        _end(mirror, store, folder, lambda line: None)
        peers.share("uploaded", True)
    except BaseException as error:
        if not mirror.flush(_seconds_left(run, error)):
            log(f"{store.address} lacks files of process {peers.process}, such as bad files that it met")
        raise
    finally:
        mirror.stop()


def _end(mirror: Mirror, store: Store, folder: Path, log: Log) -> None:
    """Upload what is left.

    Raises:
      UserError: it could not be.
    """
    if not mirror.flush(2.0):
        log(f"{store.address}: uploading the rest")
    while not mirror.flush(5.0):
        for line in mirror.take_lines():
            log(line)
        problem = mirror.problem(SECONDS_OF_FAILURES)
        if problem:
            raise UserError(f"{problem}: the run is in {folder}; rerun the same command here to upload it")
    log(f"{store.address}: everything is uploaded")


def _end_interrupted(
    mirror: Mirror, store: Store, folder: Path, run: Any, log: Log, error: BaseException
) -> None:
    """Upload what is left within the grace time that is left, and say what is not."""
    if mirror.flush(_seconds_left(run, error)):
        log(f"{store.address}: everything is uploaded")
        return
    newest = mirror.newest()
    there = "it has no checkpoint" if newest is None else f"its newest checkpoint is of step {newest:,}"
    log(
        f"{store.address} lacks what was not uploaded in time ({mirror.reason or 'it takes longer'}): "
        f"{there}; a start on this host goes on from {folder}"
    )


def _seconds_left(run: Any, error: BaseException) -> float:
    """Return the rest of the grace time of a run that an error ends, at least 1 s."""
    since = getattr(error, "since", None) if isinstance(error, Stopped) else None
    return max(1.0, run.grace_seconds - (time.monotonic() - since if since else 0.0))


def _fetch_small(store: Store, folder: Path) -> None:
    """Make the local copy of a process that writes no checkpoint, but has to know that there is one."""
    _empty(folder)
    objects = store.list()
    for checkpoint in checkpoints_of(objects):
        (folder / checkpoint.name).mkdir(parents=True)
    fetch_small_files(store, objects, folder, reading=True)


def _fetch(store: Store, folder: Path, run_id: str, log: Log) -> bool:
    """Bring the local copy of the first process up to date -> whether it was newer, and is kept."""
    _forget_other_run(folder, run_id, log)
    objects = store.list()
    here = newest_local(folder)
    for checkpoint, names in checkpoints_of(objects).items():
        if checkpoint.sums not in names:
            log(f"{store.address}/{checkpoint.name} was not uploaded completely: deleted")
            store.remove(names)
    there = fetch_newest(store, objects, folder, FOLDERS[0], log)
    if here is not None and (there is None or here > there):
        log(f"{folder} has step {here:,}, which was not uploaded: the run goes on from it")
        return True
    fetch_newest(store, objects, folder, FOLDERS[1], log)
    fetch_small_files(store, objects, folder, reading=False)
    return False


def _forget_other_run(folder: Path, run_id: str, log: Log) -> None:
    """Empty a local copy that is not of this run: what was at the address has been deleted since."""
    file = folder / RUN_FILE
    if file.is_file() and file.read_text() == run_id:
        return
    if _empty(folder):
        log(f"{folder} was a copy of another run that was at this address: deleted")
    file.write_text(run_id)


def _empty_if_unused(folder: Path) -> None:
    """Delete the files of a start that was refused before its first metrics; at the address too."""
    names = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
    if names <= OF_A_START and not in_use(folder):
        _empty(folder)


def _empty(folder: Path) -> bool:
    """Delete what is in a local copy, but its lock -> whether there was anything."""
    old = [path for path in folder.iterdir() if not path.name.startswith(".")]
    for path in old:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return bool(old)


def _copy_folder(address: str, peers: Peers | None) -> Path:
    """Return the folder of this process's copy; processes of one machine have one each."""
    number = f"#{peers.process}" if peers and peers.process else ""
    return cache_folder("workdirs", address + number)


@contextlib.contextmanager
def _local_lock(folder: Path, address: str) -> Iterator[Callable[[dict], bool]]:
    """Hold a local copy; yield holder -> whether a remote lock is of an earlier process with this copy.

    Raises:
      UserError: another process of this machine has it, or it cannot be made.
    """
    with open_lock_file(folder, address) as file:
        if not try_lock(file):
            raise UserError(
                f"{address} is in use by another process on this host, which works in {folder}: wait until "
                "it ends, stop it, or type another --workdir"
            )
        me = socket.gethostname(), file.seek(0) or file.read()
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield lambda holder: (holder.get("host"), str(holder.get("process"))) == me


@contextlib.contextmanager
def _reachable(address: str) -> Iterator[None]:
    try:
        yield
    except StoreError as error:
        raise UserError(
            f"cannot use the work directory {address} ({error}): {how_to_reach(address)}"
        ) from error


def _check_same(peers: Peers, workdir: str) -> None:
    """Raise AgreedError if the processes of a run were given other addresses, or some a folder."""
    all_given = peers.share("address", workdir if is_store(workdir) else "")
    for number, given in enumerate(all_given):
        if given != all_given[0]:
            raise AgreedError(
                f"process {number} works in {given or 'a folder'}, process 0 in "
                f"{all_given[0] or 'a folder'}: give every process one --workdir"
            )
