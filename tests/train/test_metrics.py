import json
import time

import pytest

from fastmim_jax.config import pretrain_config
from fastmim_jax.io import read_json_lines
from fastmim_jax.train.metrics import Metrics


@pytest.mark.slow
def test_what_lies_beyond_the_checkpoint_is_taken_back(tmp_path):
    path = tmp_path / "metrics.jsonl"
    whole = "".join(json.dumps({"step": step, "loss": 1 / step}) + "\n" for step in (1, 2, 3, 4))
    path.write_text(whole + '{"step": 5, "lo')
    metrics = Metrics(tmp_path, start=2, total=9, config=pretrain_config())
    metrics.write(3, {"loss": 0.1 + 0.2})
    metrics.close()
    assert [line["step"] for line in read_json_lines(path).records] == [1, 2, 3]
    assert read_json_lines(path).records[-1]["loss"] == 0.1 + 0.2  # every bit
    assert abs(read_json_lines(path).records[-1]["time"] - time.time()) < 60
    assert list((tmp_path / "tensorboard").glob("events*"))
