"""Event files that TensorBoard reads."""

import struct

from PIL import Image
from tensorboardX.proto.event_pb2 import Event, SessionLog

from fastmim_jax.train.loggers.items import Picture, Scalars
from fastmim_jax.train.tensorboard import EventWriter


def events_of(folder):
    """The events of all files: TFRecords of length, checksum, content, checksum."""
    found = []
    for path in sorted(folder.glob("events.out.tfevents.*")):
        content = path.read_bytes()
        while content:
            (length,) = struct.unpack("<Q", content[:8])
            found.append(Event.FromString(content[12 : 12 + length]))
            content = content[16 + length :]
    return found


def test_scalars_and_the_start_of_a_resumed_run(tmp_path):
    writer = EventWriter(tmp_path / "board", start=40)
    assert not (tmp_path / "board").exists()
    writer.write(Scalars(41, 1.5, {"loss": 0.25, "lr": 2.0}))
    version, start, scalars = events_of(tmp_path / "board")
    assert version.file_version == "brain.Event:2"
    assert (start.step, start.session_log.status) == (41, SessionLog.START)
    values = {value.tag: value.simple_value for value in scalars.summary.value}
    assert (scalars.step, scalars.wall_time, values) == (41, 1.5, {"loss": 0.25, "lr": 2.0})


def test_pictures_and_the_config(tmp_path):
    Image.new("RGB", (5, 3)).save(tmp_path / "a.png")
    writer = EventWriter(tmp_path / "board", config={"data.path": "sample"})
    writer.write(Picture(7, 1.5, "curve", tmp_path / "a.png"))
    _, config, picture = events_of(tmp_path / "board")
    assert b"| data.path | sample |" in config.summary.value[0].tensor.string_val[0]
    (value,) = picture.summary.value
    assert (picture.step, value.tag, value.image.width, value.image.height) == (7, "curve", 5, 3)
    assert value.image.encoded_image_string == (tmp_path / "a.png").read_bytes()
