"""The processes of a run keep in touch: they stop together, and one that ends ends all, with a sentence.

Every process has a TCP connection to the first one. JAX's own service notices a dead process after minutes
and then aborts the others with a stack trace.
"""

import contextlib
import json
import os
import queue
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from fastmim_jax.errors import UserError

BEGUN = "begun"  # name of the values that decide a stop
BEATS = 5  # heartbeats within the time after which a silent process counts as dead
SECONDS_TO_CONNECT = 60.0
SECONDS_TO_READ = 2.0  # for the others to read the last message of this process
SECONDS_TO_END = 2.0  # for the others to end, once they know why


class AgreedError(UserError):
    """An error that every process of the run raises, each by itself."""


class Ended(NamedTuple):
    """The end of another process: who, on which host, what it said ("" if nothing) and its exit code."""

    process: int
    host: str
    text: str
    code: int

    def sentence(self) -> str:
        """Return what this process prints before it ends too."""
        said = f": {self.text}" if self.text else " without a word, as if killed"
        return f"process {self.process} on {self.host} ended{said}"


class Peers:
    """The connections between the processes of a run.

    Args:
      process: number of this process. count: of all.
      timeout: seconds of silence after which a process counts as dead.
      publish: process 0 calls it with the port that the others connect to.
      find: the other processes call it for (host, port) of process 0.
      leave: ends this process with an exit code.
    """

    def __init__(
        self,
        process: int,
        count: int,
        timeout: float,
        publish: Callable[[int], None],
        find: Callable[[], tuple[str, int]],
        leave: Callable[[int], Any] = os._exit,
    ):
        self.process, self.count, self._timeout, self._leave = process, count, timeout, leave
        self.host = socket.gethostname()
        self.on_stop: Callable[[str], None] = lambda name: None  # another process got this signal
        self.stop_name = ""  # the first signal that this process knows of
        self._agreement: Any = None
        self._held = False  # this process has said how many units it has begun
        self._links: dict[int, _Link] = {}
        self._shares: queue.Queue[list] = queue.Queue()
        self._parts: dict[str, dict[int, Any]] = {}  # of process 0: what `share` has received
        self._lock = threading.Lock()
        self._closing = False
        if process == 0:
            self._accept(publish)
        else:
            link = _Link(_reach(find()), timeout)
            link.send({"kind": "hello", "process": process, "host": self.host})
            self._start(0, link, link.receive().get("host", "?"))
        threading.Thread(target=self._beat, daemon=True, name="peers").start()

    def share(self, name: str, value: Any) -> list[Any]:
        """Return the JSON values that all processes give, in their order; waits for all.

        Every process must call it in the same order.
        """
        if self.process == 0:
            self._collect(name, 0, value)
        else:
            self._send({"kind": "share", "name": name, "value": value})
        return self._shares.get()

    def tell_stop(self, name: str) -> None:
        """Tell the others that this process has received a signal."""
        self.stop_name = self.stop_name or name
        self._send({"kind": "stop", "name": name, "from": self.process})
        self._hold()

    def join_agreement(self, agreement: Any) -> None:
        """Let a `StopAgreement` take part: `hold` is called at a signal, and `decide` with all answers."""
        self._agreement = agreement
        self._hold()

    def fail(self, text: str, code: int) -> None:
        """Tell the others that this process ends, and why; they end too."""
        end = {"kind": "failed", "process": self.process, "host": self.host, "text": text, "code": code}
        self._closing = True
        self._send_last(end)

    def close(self) -> None:
        """Say that this process ends as it should; the others go on without it."""
        self._closing = True
        self._send_last({"kind": "done"})

    def wait(self, seconds: float) -> None:
        """Wait in process 0 until the others have ended, since they abort when JAX's coordinator does."""
        end = time.monotonic() + seconds
        while self.process == 0 and any(link.open for link in self._links.values()):
            if time.monotonic() > end:
                return
            time.sleep(0.01)

    def _accept(self, publish: Callable[[int], None]) -> None:
        with socket.create_server(("", 0), backlog=self.count) as server:
            server.settimeout(SECONDS_TO_CONNECT)
            publish(server.getsockname()[1])
            while len(self._links) < self.count - 1:
                try:
                    connection, _ = server.accept()
                except TimeoutError:
                    missing = sorted(set(range(1, self.count)) - set(self._links))
                    raise UserError(
                        f"processes {missing} did not connect to process 0 on {self.host} within "
                        f"{SECONDS_TO_CONNECT:.0f} s: see their output"
                    ) from None
                link = _Link(connection, self._timeout)
                hello = link.receive()
                link.send({"kind": "hello", "host": self.host})
                self._start(hello["process"], link, hello["host"])

    def _start(self, process: int, link: "_Link", host: str) -> None:
        link.process, link.host = process, host
        self._links[process] = link
        threading.Thread(target=self._listen, args=(link,), daemon=True, name="peer").start()

    def _listen(self, link: "_Link") -> None:
        """Act on the messages of a process until it ends."""
        while True:
            try:
                message = link.receive()
            except (OSError, ValueError):
                link.open = False
                link.read.set()
                if not (self._closing or link.done):
                    self._end(Ended(link.process, link.host, "", 1), link)
                return
            kind = message["kind"]
            if kind == "read":
                link.read.set()
            elif kind == "done":
                link.done = True
                self._answer(link)
            elif kind == "failed":
                self._answer(link)
                if self._closing:
                    continue  # both end, and wait for the end of the connection
                link.open = False  # nobody listens to it any more
                self._end(
                    Ended(message["process"], message["host"], message["text"], message["code"]), link
                )
            elif kind == "stop":
                self._send(message, link.process)
                self.stop_name = self.stop_name or message["name"]
                self.on_stop(message["name"])
                self._hold()
            elif kind == "share":
                self._collect(message["name"], link.process, message["value"])
            elif kind == "shared":
                self._take(message["name"], message["values"])

    def _hold(self) -> None:
        """Say once, after a signal, how many units of work this process has begun."""
        with self._lock:
            if self._held or not self.stop_name or self._agreement is None:
                return
            self._held = True
        value = [self._agreement.hold(), self.stop_name]
        if self.process == 0:
            self._collect(BEGUN, 0, value)
        else:
            self._send({"kind": "share", "name": BEGUN, "value": value})

    def _collect(self, name: str, process: int, value: Any) -> None:
        """Keep a value in process 0, and send all to all once the last has come."""
        with self._lock:
            parts = self._parts.setdefault(name, {})
            parts[process] = value
            if len(parts) < self.count:
                return
            del self._parts[name]
        values = [parts[number] for number in range(self.count)]
        self._send({"kind": "shared", "name": name, "values": values})
        self._take(name, values)

    def _take(self, name: str, values: list) -> None:
        """Give the values of all processes to whom they are for."""
        if name == BEGUN:
            self._agreement.decide(values)
        else:
            self._shares.put(values)

    def _answer(self, link: "_Link") -> None:
        with contextlib.suppress(OSError):
            link.send({"kind": "read"})

    def _send_last(self, message: dict, but: int = -1) -> None:
        """Send, and wait until it is read: the system may discard what a process sent before its end."""
        self._send(message, but)
        end = time.monotonic() + SECONDS_TO_READ
        for process, link in list(self._links.items()):
            if process != but:
                link.read.wait(max(0.0, end - time.monotonic()))

    def _send(self, message: dict, but: int = -1) -> None:
        """Send to all links but one; process 0 has a link to every other, which passes messages on."""
        for process, link in list(self._links.items()):
            if process != but:
                with contextlib.suppress(OSError):
                    link.send(message)

    def _end(self, ended: Ended, link: "_Link") -> None:
        """End this process; process 0 tells the others first, and waits until they have ended too."""
        with self._lock:
            if self._closing:
                return
            self._closing = True
        if self.process == 0:
            self._send_last({"kind": "failed", **ended._asdict()}, link.process)
        with contextlib.suppress(OSError, ValueError):
            print(f"fastmim: {ended.sentence()}", file=sys.stderr, flush=True)
            sys.stdout.flush()
        self.wait(SECONDS_TO_END)
        self._leave(ended.code)

    def _beat(self) -> None:
        while not self._closing:
            self._send({"kind": "alive"})
            time.sleep(self._timeout / BEATS)


class _Link:
    """A connection that carries one JSON object a line."""

    def __init__(self, connection: socket.socket, timeout: float):
        connection.settimeout(timeout)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._connection, self._lines = connection, connection.makefile("rb")
        self._lock = threading.Lock()
        self.process, self.host = -1, "?"
        self.open, self.done = True, False
        self.read = threading.Event()  # the last message was read

    def send(self, message: dict) -> None:
        with self._lock:
            self._connection.sendall(json.dumps(message).encode() + b"\n")

    def receive(self) -> dict:
        """Return the next message; OSError at the end or after too long a silence."""
        line = self._lines.readline()
        if not line.endswith(b"\n"):
            raise ConnectionError("the connection ended")
        return json.loads(line)


def _reach(address: tuple[str, int]) -> socket.socket:
    try:
        return socket.create_connection(address, SECONDS_TO_CONNECT)
    except OSError as error:
        host, port = address
        raise UserError(
            f"process 0 cannot be reached at {host}:{port} ({error}): let every host connect to any port "
            "of that host"
        ) from error


_CURRENT: Peers | None = None


def connect_peers(peers: Peers) -> None:
    """Make the peers known to `current_peers`."""
    global _CURRENT
    _CURRENT = peers


def current_peers() -> Peers | None:
    """Return the peers of this process, or None if it runs alone."""
    return _CURRENT
