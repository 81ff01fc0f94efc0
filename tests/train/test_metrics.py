import json

import pytest

from fastmim_jax.io import read_json_lines
from fastmim_jax.train.metrics import Metrics, ProgressLine, format_seconds


def test_what_lies_beyond_the_checkpoint_is_taken_back(tmp_path):
    path = tmp_path / "metrics.jsonl"
    whole = "".join(json.dumps({"step": step, "loss": 1 / step}) + "\n" for step in (1, 2, 3, 4))
    path.write_text(whole + '{"step": 5, "lo')
    metrics = Metrics(tmp_path, start=2, total=9)
    metrics.write(3, {"loss": 0.1 + 0.2})
    metrics.close()
    assert [line["step"] for line in read_json_lines(path).records] == [1, 2, 3]
    assert read_json_lines(path).records[-1]["loss"] == 0.1 + 0.2  # every bit
    assert list((tmp_path / "tensorboard").glob("events*"))


def test_without_a_terminal_there_are_plain_lines_now_and_then(capsys):
    line = ProgressLine(0, 100, seconds_between_lines=3600)
    for step in range(10, 101, 10):
        line.show(step, {"loss": 0.5, "lr": 1e-3, "images_per_second": 1234.0})
    line.close()
    told = capsys.readouterr().out.splitlines()
    assert len(told) == 2  # the first, and the last of the run
    assert told[0].startswith("step 10/100  loss 0.5000  lr 1.00e-03  1,234 images/s  ETA")


@pytest.mark.parametrize(("seconds", "text"), [(59.6, "1:00"), (3723, "1:02:03"), (0, "0:00")])
def test_times(seconds, text):
    assert format_seconds(seconds) == text
