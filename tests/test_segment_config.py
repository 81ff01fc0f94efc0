"""The config of segmentation: a rule and a meaning for every key, and variants that build."""

import jax
import pytest

from fastmim_jax.config_keys import key_meanings
from fastmim_jax.errors import UserError
from fastmim_jax.recipes import load_config
from fastmim_jax.saved_config import config_from_dict, differences, flatten, kind_of
from fastmim_jax.segment_config import segment_config
from fastmim_jax.train.inherit_backbone import inherit_backbone
from fastmim_jax.train.optimizer import make_schedule
from fastmim_jax.train.segment import make_segment_stage
from fastmim_jax.validate.segmentation import check_data_given, check_segmentation
from fastmim_jax.validate.supervised import check_supervised
from fastmim_jax.validate.values import SEGMENT_RULES, check_values
from helpers import small

OWN = set(flatten(segment_config())) - set(flatten(small.finetune_config()))


def test_every_key_has_a_rule_and_a_meaning():
    keys = sorted(flatten(segment_config()))
    assert keys == sorted(SEGMENT_RULES)
    meanings = key_meanings("segment")
    assert not [key for key in keys if len(meanings[key]) < 5]
    check_values(segment_config())


@pytest.mark.parametrize("key", sorted(OWN))
def test_nonsense_is_refused_or_a_name(key):
    names = ("data.kind", "data.legend", "data.eval_mode", "model.head.name")
    for value in (-7, float("nan"), object(), {}, (-1, "a"), *(() if key in names else ("nonsense",))):
        assert not SEGMENT_RULES[key].accepts(value), value


def test_runs_from_before_the_photometric_distortion_resume_without_it():
    saved, now = segment_config().to_dict(), segment_config()
    del saved["data"]["photometric_distortion"]
    assert config_from_dict(saved).data.photometric_distortion == 0
    assert differences(saved, now) == [("data.photometric_distortion", 0.0, 1.0)]


@pytest.mark.parametrize("config", [small.segmenting(), small.tuning()], ids=["segment", "finetune"])
def test_checks_that_training_with_labels_shares_return_the_backbone(config):
    config = inherit_backbone(config, None)
    encoder = check_supervised(config, platform="cpu", devices=1)
    assert encoder.family == "vit" and len(encoder.layer_names) == config.model.backbone.depth
    config.data.image_size = (30, 32)
    with pytest.raises(UserError, match="config.data.image_size"):
        check_supervised(config, platform="cpu", devices=1)


def test_saved_configs_keep_their_kind():
    saved = segment_config().to_dict()
    assert kind_of(saved) == "segment" and kind_of(config_from_dict(saved)) == "segment"
    assert kind_of(small.tuning()) == "finetune" and kind_of(small.config()) == "pretrain"


@pytest.mark.parametrize("variant", ["vit_b16", "mae_vit_b16", "swin_b", "own", "tiny", "auto"])
def test_every_variant_is_valid(variant):
    config = load_config(f"configs/segment.py:{variant}")
    config.data.path = "somewhere"
    if not config.model.backbone.name:
        config.model.backbone.name = "vit_ti16"
        config.data.image_size = config.data.image_size or (64, 64)
    check_data_given(config)
    config = inherit_backbone(config, None)
    check_segmentation(config, 150, platform="cpu", devices=1)
    if variant in ("vit_b16", "mae_vit_b16"):
        assert config.optimizer.base_lr * 16 / 256 in (3e-4, 1e-4)


@pytest.mark.slow
def test_a_stage_builds_at_the_published_size():
    """Abstractly: parameters of FastMIM's ViT-B with UPerNet, whose neck and heads have no layer decay."""
    config = load_config("configs/segment.py:vit_b16")
    config.model.backbone.depth = 12
    stage = make_segment_stage(config, 20210, [str(index) for index in range(150)], jax.devices()[:1])
    assert stage.plan.total_steps == pytest.approx(160_000, rel=5e-3)
    assert stage.plan.peak_lr == pytest.approx(3e-4)
    assert set(stage.abstract.params) == {"encoder", "neck", "segmentation", "auxiliary"}
    batch = stage.abstract_batch()
    assert batch["image"].shape == (16, 512, 512, 3) and batch["mask"].shape == (16, 512, 512)


def test_the_poly_schedule_is_that_of_mmcv():
    """mmcv scales the falling line in its warm-up: lr = peak * (1 - t / T) * t / warmup."""
    schedule = make_schedule(peak=2.0, floor=0.0, warmup=10.0, total=100.0, shape="poly")
    found = [float(schedule(epoch)) for epoch in (0, 5, 10, 55, 100)]
    assert found == pytest.approx([0, 2 * 0.95 * 0.5, 2 * 0.9, 2 * 0.45, 0])
