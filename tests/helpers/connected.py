"""Several `Peers` in the threads of one process."""

import contextlib
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from fastmim_jax.train.peers import Peers


class Left:
    """The exit code with which a peer would have ended its process, and its connections with it."""

    def __init__(self):
        self.code, self.event, self.peer, self.time = None, threading.Event(), None, None

    def __call__(self, code):
        self.code, self.time = code, time.monotonic()
        for link in self.peer._links.values():
            with contextlib.suppress(OSError):
                link._connection.shutdown(socket.SHUT_RDWR)
        self.event.set()

    def wait(self):
        assert self.event.wait(30)
        return self.code


def connect(count, timeout=30.0):
    """-> (peers, their `Left`), connected over the loopback."""
    port, known = [], threading.Event()

    def publish(number):
        port.append(number)
        known.set()

    def find():
        assert known.wait(30)
        return "127.0.0.1", port[0]

    left = [Left() for _ in range(count)]
    with ThreadPoolExecutor(count) as pool:
        peers = list(pool.map(lambda i: Peers(i, count, timeout, publish, find, left[i]), range(count)))
    for peer, end in zip(peers, left, strict=True):
        end.peer = peer
    return peers, left


def together(function, items):
    """-> results of function(item), all called at the same time."""
    with ThreadPoolExecutor(len(items)) as pool:
        return list(pool.map(function, items))
