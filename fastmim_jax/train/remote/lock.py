"""One run per address: an object that names the holder, and changes while it is alive."""

import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

from fastmim_jax.errors import UserError
from fastmim_jax.stores.store import Store, StoreError
from fastmim_jax.train.remote.layout import LOCK

SECONDS_BETWEEN_BEATS = 10.0
BEATS_OF_SILENCE = 6  # after which a holder counts as dead
SECONDS_TO_SETTLE = 1.0  # of two starts at once, the later one to write holds the lock


class RemoteLock:
    """The lock of a run in an object store.

    Args:
      store: of the run.
      beat: seconds between signs of life.
      is_mine: holder -> whether it was a process of this machine that has ended.
    """

    def __init__(
        self,
        store: Store,
        beat: float = SECONDS_BETWEEN_BEATS,
        is_mine: Callable[[dict[str, Any]], bool] = lambda holder: False,
    ):
        self._store, self._beat, self._is_mine = store, beat, is_mine
        self._holder = secrets.token_hex(8)
        self._since = time.strftime("%Y-%m-%d %H:%M:%S")
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._count = 0
        self.run = ""  # random, the same for all starts of a run
        self.lost = ""  # a sentence, once another process has taken the run over

    def acquire(self, log: Callable[[str], None] = print) -> None:
        """Take the lock; a holder that gives no sign of life for BEATS_OF_SILENCE beats has lost it.

        Raises:
          UserError: a run is alive.
          StoreError: the store cannot be read or written.
        """
        before = self._read()
        if before and not before.get("ended") and not self._is_mine(before):
            self._await_silence(before, log)
        self.run = str((before or {}).get("run") or secrets.token_hex(8))
        self._write()
        time.sleep(min(SECONDS_TO_SETTLE, self._beat))
        holder = self._read() or {}
        if holder.get("holder") != self._holder:
            raise self._refusal(holder)
        self._thread = threading.Thread(target=self._keep, daemon=True, name="lock")
        self._thread.start()

    def release(self) -> None:
        """Say that this process has ended."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
            try:
                if not self.lost:
                    self._write(ended=True)
            except StoreError:
                pass  # the next start waits until the lock is silent

    def _await_silence(self, before: dict[str, Any], log: Callable[[str], None]) -> None:
        seconds = self._beat * BEATS_OF_SILENCE
        log(
            f"{self._store.address} was held by {_describe(before)}: waiting {seconds:.0f} s for a "
            "sign of life"
        )
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(self._beat / 4)
            now = self._read()
            if not now or now.get("ended"):
                return
            if now != before:
                raise self._refusal(now)

    def _refusal(self, holder: dict[str, Any]) -> UserError:
        return UserError(
            f"{self._store.address} is in use by {_describe(holder)}: wait until it ends, stop it, or type "
            "another --workdir"
        )

    def _keep(self) -> None:
        """Give signs of life until the end, or until another process has taken over."""
        while not self._stop.wait(self._beat):
            try:
                holder = self._read()
                if holder is not None and holder.get("holder") != self._holder:
                    self.lost = (
                        f"{self._store.address} was taken over by {_describe(holder)}, which "
                        "heard nothing of this process: nothing more is uploaded; stop one of them"
                    )
                    return
                self._write()
            except StoreError:
                continue  # uploads fail too, and say so

    def _read(self) -> dict[str, Any] | None:
        content = self._store.read(LOCK)
        try:
            holder = json.loads(content or b"null")
        except ValueError:
            return None
        return holder if isinstance(holder, dict) else None

    def _write(self, ended: bool = False) -> None:
        self._count += 1
        content = {
            "host": socket.gethostname(),
            "process": os.getpid(),
            "since": self._since,
            "run": self.run,
            "holder": self._holder,
            "beat": self._count,
            "ended": ended,
        }
        self._store.write(LOCK, json.dumps(content).encode())


def _describe(holder: dict[str, Any]) -> str:
    try:
        return f"process {holder['process']} on {holder['host']}, since {holder['since']}"
    except KeyError:
        return "another run"
