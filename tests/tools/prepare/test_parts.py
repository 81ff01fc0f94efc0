"""The parts of `fastmim prepare`: shards, statistics, settings, progress, processes, sentences."""

import json
import os
import re

import numpy as np
import pytest

from fastmim_jax.errors import UserError
from fastmim_jax.tools.prepare import destination, facts, processes, progress, settings, summary
from fastmim_jax.tools.prepare.shards import make_tasks


@pytest.mark.parametrize("records", [1, 255, 256, 257, 131_072, 131_073, 1_281_167])
def test_shards_cover_every_record_once(records):
    tasks = make_tasks({"train": records, "val": 3})
    train = [task for task in tasks if task.split == "train"]
    assert [task.start for task in train] == [0, *(task.stop for task in train[:-1])]
    assert train[-1].stop == records and len(train) <= 512 and all(task.stop > task.start for task in train)
    assert len({task.file for task in tasks}) == len(tasks)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_statistics_over_shards(dtype):
    rng = np.random.default_rng(0)
    images = [(rng.random((5 + i, 4, 2)) * 200).astype(dtype) for i in range(5)]
    shards = [facts.ShardFacts(), facts.ShardFacts(), facts.ShardFacts()]
    for i, image in enumerate(images):
        shards[i % 2].add(image, i % 2, str(i))
    shards = [facts.ShardFacts(**json.loads(json.dumps(vars(shard)))) for shard in shards]
    split = facts.split_facts(shards, ["a", "b"], (0.0, 200.0))
    pixels = np.concatenate([image.reshape(-1, 2) for image in images]).astype(np.float64) / 200
    assert np.allclose(split.mean, pixels.mean(0), atol=1e-5)
    assert np.allclose(split.std, pixels.std(0), atol=1e-5)
    assert split.records == 5 and (split.height.min, split.height.median, split.height.max) == (5, 7, 9)


def test_differences_are_what_one_types():
    now = settings.Settings("/a", "jpeg", 256, 90, 3, "uint8", (0.0, 255.0), {"train": 5})
    earlier = json.loads(json.dumps(vars(now)))
    assert settings.describe_differences(now, earlier) == ""
    earlier |= {"short_side": 128, "source": "/b", "records": {"train": 4}}
    assert settings.describe_differences(now, earlier) == (
        "source /b (now /a), --short_side=128 (now 256), 4 records in train (now 5)"
    )


def test_a_folder_that_another_process_writes_to(tmp_path):
    now = settings.Settings("/a", "jpeg", 256, 90, 3, "uint8", (0.0, 255.0), {"train": 5})
    with destination.open_destination(str(tmp_path / "x"), now):
        with pytest.raises(UserError, match="Another `fastmim prepare` is writing"):
            with destination.open_destination(str(tmp_path / "x"), now):
                pass


def test_progress_in_a_log_file(capsys, monkeypatch):
    clock = iter(range(0, 1000, 2))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with progress.ImageProgress(total=100, done=40, seconds_between_lines=3) as line:
        for _ in range(7):
            line.add(4)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "48/100 images  2 images/s  ETA 0:00:26"
    assert [re.match(r"\d+", line)[0] for line in lines] == ["48", "56", "64"]


def test_one_class_and_one_image_are_singular():
    shard = facts.ShardFacts()
    shard.add(np.zeros((4, 5, 1), np.uint8), 0, "a")
    split = facts.split_facts([shard], ["cat"], (0.0, 255.0))
    now = settings.Settings("/a", "raw", 256, None, 1, "uint8", (0.0, 200.0), {"train": 1})
    lines = list(summary.summary_lines({"train": split}, now))
    assert lines[0] == "train: 1 image, 1 class" and '--config.data.mean="(0.0,)"' in lines[-1]


def die(task, report):
    """Work that kills its process."""
    os._exit(1)


def fail(task, report):
    """Work with a mistake."""
    raise KeyError(task)


def double(task, report):
    """Work that succeeds."""
    report(task)
    return 2 * task


@pytest.mark.slow
@pytest.mark.multiprocess
def test_workers_that_succeed_fail_and_die():
    seen = []
    assert sorted(processes.run_tasks(double, [1, 2, 3], 2, seen.append)) == [(1, 2), (2, 4), (3, 6)]
    assert sum(seen) == 6
    with pytest.raises(RuntimeError, match="KeyError: 1"):
        list(processes.run_tasks(fail, [1, 1], 2, seen.append))
    with pytest.raises(UserError, match="A worker process died"):
        list(processes.run_tasks(die, [1, 2], 2, seen.append))
