"""The commands that train take configs of their own kind, and others tell segmentations apart."""

import pytest

from fastmim_jax.cli.training import check_config, check_measurable, is_segmentation
from fastmim_jax.errors import UserError
from helpers import small


def test_a_config_of_another_kind_is_refused_with_its_command():
    for config, kind in (
        (small.config(), "pretrain"),
        (small.tuning(), "finetune"),
        (small.segmenting(), "segment"),
    ):
        assert check_config(config, kind) is config
        other = "segment" if kind == "finetune" else "finetune"
        with pytest.raises(UserError, match=f"type fastmim {kind} with it"):
            check_config(config, other)
    assert check_measurable(small.tuning())
    with pytest.raises(UserError, match="bench and plan measure"):
        check_measurable(small.segmenting())


def test_runs_of_segmentation_are_known_by_their_config(tmp_path):
    for name, config in (("s", small.segmenting()), ("f", small.tuning())):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(config.to_json())
        assert is_segmentation(str(tmp_path / name), None) == (name == "s")
