"""Scalars, pictures and the config in TensorBoard's event files."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastmim_jax.train.loggers.items import Picture, Scalars


class EventWriter:
    """Write scalars and pictures to a new event file; nothing is opened before the first ones.

    tensorboardX's SummaryWriter blocks for ever once its own thread has met a full disk, so that only its
    event format is used here.

    Args:
      folder: made if missing.
      start: steps above it, of an interrupted run, are to be hidden; 0 for none.
      config: flat; written as a table under the name "config".
    """

    def __init__(self, folder: str | Path, start: int = 0, config: Mapping[str, Any] | None = None):
        self._folder, self._start, self._config = Path(folder), start, config or {}
        self._file: Any = None

    def write(self, item: Scalars | Picture) -> None:
        """Write an item, and flush.

        Raises:
          OSError: the file cannot be written.
        """
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.proto.summary_pb2 import Summary

        if self._file is None:
            self._open()
        if isinstance(item, Scalars):
            values = [Summary.Value(tag=name, simple_value=x) for name, x in item.values.items()]
        else:
            values = [Summary.Value(tag=item.name, image=Summary.Image(**_read_png(item.path)))]
        self._file.write_event(Event(step=item.step, wall_time=item.time, summary=Summary(value=values)))
        self._file.flush()

    def _open(self) -> None:
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog
        from tensorboardX.summary import text

        self._folder.mkdir(parents=True, exist_ok=True)
        self._file = EventsWriter(str(self._folder / "events"))
        if self._start:
            log = SessionLog(status=SessionLog.START)
            self._file.write_event(Event(step=self._start + 1, wall_time=time.time(), session_log=log))
        if self._config:
            rows = [f"| {key} | {value} |" for key, value in self._config.items()]
            table = text("config", "\n".join(["| key | value |", "|---|---|", *rows]))
            self._file.write_event(Event(step=self._start, wall_time=time.time(), summary=table))


def _read_png(path: Path) -> dict[str, Any]:
    """Return the fields of a Summary.Image of a picture file."""
    from PIL import Image

    content = path.read_bytes()
    with Image.open(path) as image:
        width, height = image.size
    return dict(height=height, width=width, colorspace=3, encoded_image_string=content)
