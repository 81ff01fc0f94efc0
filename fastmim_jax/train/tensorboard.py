"""Scalars in TensorBoard's event files."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class EventWriter:
    """Write scalars to a new event file; nothing is opened before the first ones.

    tensorboardX's SummaryWriter blocks for ever once its own thread has met a full disk, so that only its
    event format is used here.

    Args:
      folder: made if missing.
      start: steps above it, of an interrupted run, are to be hidden; 0 for none.
    """

    def __init__(self, folder: str | Path, start: int = 0):
        self._folder, self._start = Path(folder), start
        self._file: Any = None

    def write(self, item: tuple[int, float, Mapping[str, float]]) -> None:
        """Write (step, Unix seconds, {name: value}), and flush.

        Raises:
          OSError: the file cannot be written.
        """
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.proto.summary_pb2 import Summary

        step, seconds, values = item
        if self._file is None:
            self._open()
        summary = Summary(value=[Summary.Value(tag=name, simple_value=x) for name, x in values.items()])
        self._file.write_event(Event(step=step, wall_time=seconds, summary=summary))
        self._file.flush()

    def _open(self) -> None:
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        self._folder.mkdir(parents=True, exist_ok=True)
        self._file = EventsWriter(str(self._folder / "events"))
        if self._start:
            log = SessionLog(status=SessionLog.START)
            self._file.write_event(Event(step=self._start + 1, wall_time=time.time(), session_log=log))
