"""Runs of Weights & Biases, recorded offline by its real client."""

import json
import struct

import pytest
from PIL import Image

from fastmim_jax.train.loggers.items import Picture, RunFacts, Scalars
from fastmim_jax.train.loggers.wandb_run import WandbRun

pytestmark = [pytest.mark.slow, pytest.mark.torch]  # both are heavy and may be missing
PICTURES = ("reconstructions", "curve", "confusion")  # names of a run's pictures
BLOCK = 2**15  # bytes
LAST = (1, 4)  # a whole record, or its last fragment


def records_of(folder):
    """Yield the records of a run-*.wandb file: fragments in blocks, as in LevelDB's logs."""
    from wandb.proto.wandb_internal_pb2 import Record

    (path,) = folder.glob("run-*.wandb")
    content, place, record = path.read_bytes(), 7, b""
    while place < len(content):
        if BLOCK - place % BLOCK < 7:
            place += BLOCK - place % BLOCK
            continue
        _, length, kind = struct.unpack("<IHB", content[place : place + 7])
        record += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in LAST:
            yield Record.FromString(record)
            record = b""


def history(folder):
    """Return [{name: value}] of the logged steps."""
    found = [record.history for record in records_of(folder) if record.HasField("history")]
    return [
        {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in one.item}
        for one in found
    ]


def test_a_run_its_config_pictures_and_continuation(tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="needs the wandb extra: pip install '.[wandb]'")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    Image.new("RGB", (4, 3)).save(tmp_path / "a.png")
    facts = RunFacts(tmp_path, {"optimizer.base_lr": 0.5})
    run = WandbRun(facts, {})
    run.log_scalars(Scalars(1, 9.5, {"loss": 0.25, "lr": float("nan")}))
    for name in PICTURES:
        run.log_picture(Picture(1, 9.5, name, tmp_path / "a.png"))
    run.finish(False)
    assert run.note.startswith("recorded offline; `wandb sync ")
    folder = next((tmp_path / "wandb").glob("offline-run-*"))
    (first,) = history(folder)
    assert first["loss"] == 0.25 and first["_step"] == 1 and first["_timestamp"] == 9.5
    for name in PICTURES:
        assert first[f"{name}/path"].startswith(f"media/images/{name}_1")
    (started,) = [record.run for record in records_of(folder) if record.HasField("run")][:1]
    updates = {item.key: item.value_json for item in started.config.update}
    assert updates["optimizer.base_lr"] == "0.5"
    assert (started.project, started.display_name) == ("fastmim_jax", tmp_path.name)

    again = WandbRun(facts._replace(start=0, logged=1), run.where)
    again.log_scalars(Scalars(1, 9.5, {"loss": 0.25}))
    again.log_scalars(Scalars(2, 9.5, {"loss": 0.125}))
    again.finish(True)
    assert again.where["run"] == run.where["run"]
    (last,) = set((tmp_path / "wandb").glob("offline-run-*")) - {folder}
    assert [values["loss"] for values in history(last)] == [0.125]
