"""Upload what a run writes into its local work directory, in a thread of its own."""

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

from fastmim_jax.errors import describe_failure
from fastmim_jax.stores.store import Store, StoreError
from fastmim_jax.train.checksums import FILE as SUMS
from fastmim_jax.train.remote.layout import (
    Checkpoint,
    checkpoints_of,
    local_checkpoints,
    local_files,
    outdated,
    parse_sums,
)

SECONDS_BETWEEN_LOOKS = 1.0
SECONDS_BETWEEN_UPLOADS = 30.0  # of small files, if there is no new checkpoint
MOST_SECONDS_TO_RETRY = 30.0

Stamp = tuple[int, int]  # size and modification time of a file


class Mirror:
    """Keep the objects of a run as its local files are.

    Small files are put whole after they change, such as metrics.jsonl. A checkpoint is put file by file
    once it is complete, its sums last: an upload that is interrupted is never taken for whole. Older
    checkpoints are deleted after that, their sums first.

    An upload that fails is tried again, less and less often; the run goes on.

    Args:
      store: of the run.
      folder: the local work directory.
      keep: number of newest checkpoints to keep. keep_every: see `Checkpoints`.
      may_write: () -> a sentence once another process has taken the run over, or "".
      process: whose small files are put; only the first process has checkpoints.
    """

    def __init__(
        self,
        store: Store,
        folder: Path,
        keep: int = 3,
        keep_every: int = 0,
        may_write: Callable[[], str] = lambda: "",
        clock: Callable[[], float] = time.monotonic,
        process: int = 0,
    ):
        self._store, self._folder, self._clock, self._process = store, folder, clock, process
        self._keep, self._keep_every, self._lost = keep, keep_every, may_write
        self._stamps: dict[str, Stamp] = {}  # of the small files as they were put
        self._sums: dict[Checkpoint, bytes] = {}  # of the checkpoints as they were put
        self._last = clock() - SECONDS_BETWEEN_UPLOADS
        self._working, self._stop = threading.Lock(), threading.Event()
        self._thread: threading.Thread | None = None
        self._lines: list[str] = []
        self._told = False
        self.failing_since: float | None = None  # of the clock
        self.reason = ""  # why the last upload failed
        self.failures = 0

    def assume(self, small: bool) -> None:
        """Compare the checkpoints in the store with the local ones; small: the small files are as there.

        Raises:
          StoreError: the store cannot be read.
        """
        if small:
            self._stamps = {name: _stamp(self._folder / name) for name in self._small_files()}
        for checkpoint in checkpoints_of(self._store.list()):
            sums = self._store.read(checkpoint.sums)
            if sums is not None:
                self._sums[checkpoint] = sums

    def start(self) -> None:
        """Begin to upload."""
        self._thread = threading.Thread(target=self._run, daemon=True, name="uploads")
        self._thread.start()

    def take_lines(self) -> list[str]:
        """Return what there is to print since the last call."""
        taken, self._lines = self._lines, []
        return taken

    def problem(self, limit: float) -> str:
        """Return a sentence once nothing could be uploaded for `limit` seconds (0: for ever), or "".

        Also where another process has taken the run over.
        """
        if self._lost():
            return self._lost()
        since = self.failing_since
        if not limit or since is None or self._clock() - since < limit:
            return ""
        return f"nothing could be uploaded to {self._store.address} for {limit:.0f} s ({self.reason})"

    def sync(self) -> None:
        """Upload everything that has changed, now.

        Raises:
          StoreError: something could not be uploaded.
        """
        with self._working:
            self._upload(now=True)

    def flush(self, seconds: float) -> bool:
        """Upload everything, for no longer than that; return whether everything is there."""
        end = self._clock() + seconds
        done = threading.Event()

        def upload() -> None:
            while True:
                if self._try(now=True):
                    done.set()
                    return
                if self._clock() > end or self._lost():
                    return
                time.sleep(min(1.0, seconds / 10))

        threading.Thread(target=upload, daemon=True, name="last upload").start()
        step = 0.05
        while not done.is_set() and self._clock() < end and not self._lost():
            done.wait(step)
        return done.is_set()

    def stop(self) -> None:
        """Start no further upload; one that runs is not waited for."""
        self._stop.set()

    def newest(self) -> int | None:
        """Return the newest step that is whole in the store."""
        return max((x.step for x in self._sums if x.folder == "checkpoints"), default=None)

    def _run(self) -> None:
        wait = SECONDS_BETWEEN_LOOKS
        while not self._stop.wait(wait):
            good = self._try(now=False)
            wait = SECONDS_BETWEEN_LOOKS if good else min(2 * wait, MOST_SECONDS_TO_RETRY)

    def _try(self, now: bool) -> bool:
        """Upload what is due; return whether that went well."""
        try:
            with self._working:
                if self._lost() or (self._stop.is_set() and not now):
                    return False
                self._upload(now)
        except (StoreError, OSError) as error:
            self._fail(describe_failure(error))
            return False
        if self._told:
            self._told = False
            self._lines.append(f"{self._store.address}: uploads work again, everything is there")
        self.failing_since = None
        return True

    def _fail(self, reason: str) -> None:
        self.failures += 1
        self.reason = reason
        if self.failing_since is None:
            self.failing_since = self._clock()
        if not self._told:
            self._told = True
            self._lines.append(
                f"{self._store.address}: an upload failed ({reason}) and is tried again; the run goes on "
                f"in {self._folder}"
            )

    def _upload(self, now: bool) -> None:
        found = local_checkpoints(self._folder)
        new = [checkpoint for checkpoint, sums in found.items() if self._sums.get(checkpoint) != sums]
        if now or new or self._clock() - self._last >= SECONDS_BETWEEN_UPLOADS:
            self._upload_small()
            self._last = self._clock()
        for checkpoint in new:
            self._upload_checkpoint(checkpoint, found[checkpoint])
        if new or now:
            self._delete_outdated()

    def _small_files(self) -> list[str]:
        return local_files(self._folder, self._process)

    def _upload_small(self) -> None:
        for name in self._small_files():
            path = self._folder / name
            try:
                stamp = _stamp(path)
                if self._stamps.get(name) != stamp:
                    self._store.write(name, path.read_bytes())  # a file that grows has one size for all
                    self._stamps[name] = stamp
            except FileNotFoundError:
                continue  # replaced or deleted meanwhile
        gone = [name for name in self._stamps if not (self._folder / name).exists()]
        self._store.remove(gone)
        for name in gone:
            del self._stamps[name]

    def _upload_checkpoint(self, checkpoint: Checkpoint, sums: bytes) -> None:
        folder, before = self._folder / checkpoint.name, parse_sums(self._sums.get(checkpoint, b""))
        after = parse_sums(sums)
        if any(after.get(name) != digest for name, digest in before.items()):
            self._delete(checkpoint)  # another one of this step
            before = {}
        files = [Path(root, name) for root, _, inside in os.walk(folder) for name in inside]
        names = [path.relative_to(folder).as_posix() for path in files]
        if after.keys() - set(names):
            return  # the run deletes it just now
        try:
            for name in sorted(names):
                if name != SUMS and (name not in after or after[name] != before.get(name)):
                    self._store.upload(f"{checkpoint.name}/{name}", folder / name)
        except FileNotFoundError:
            self._delete(checkpoint)  # the run has deleted it meanwhile
            return
        self._store.write(checkpoint.sums, sums)
        self._sums[checkpoint] = sums

    def _delete_outdated(self) -> None:
        local = local_checkpoints(self._folder)
        for checkpoint in outdated(self._sums, local, self._keep, self._keep_every):
            self._delete(checkpoint)

    def _delete(self, checkpoint: Checkpoint) -> None:
        """Delete the objects of a checkpoint, its sums first."""
        self._store.remove([checkpoint.sums])
        self._sums.pop(checkpoint, None)
        self._store.remove(checkpoints_of(self._store.list()).get(checkpoint, []))


def _stamp(path: Path) -> Stamp:
    facts = path.stat()
    return facts.st_size, facts.st_mtime_ns
