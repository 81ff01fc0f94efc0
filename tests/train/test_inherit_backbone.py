"""Settings that fine-tuning inherits from the run that it starts from, and their effect on arrays."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fastmim_jax import create_method
from fastmim_jax.build import create_classifier
from fastmim_jax.config import finetune_config, pretrain_config
from fastmim_jax.errors import UserError
from fastmim_jax.models.positions import sincos_positions
from fastmim_jax.models.resample import resample
from fastmim_jax.recipes import load_config
from fastmim_jax.saved_config import config_from_dict
from fastmim_jax.train.inherit_backbone import inherit_backbone
from fastmim_jax.train.transfer import transfer
from helpers import initial, small


def pretraining(size=128, **backbone):
    """A config of pre-training as it comes back from its work directory."""
    config = pretrain_config()
    config.data.image_size = (size, size)
    config.method.backbone.update(**backbone)
    return config_from_dict(json.loads(config.to_json()))


def tuned(saved, size=224, **backbone):
    config = finetune_config()
    config.data.image_size = (size, size)
    config.model.backbone.update(**backbone)
    return inherit_backbone(config, saved)


def backbone_of(*args, **options):
    return tuned(*args, **options).model.backbone


def variables_of(model, size):
    images = jnp.zeros((1, size, size, 3))
    keys = {"params": jax.random.key(0), "mask": jax.random.key(1)}
    return initial.variables(model, keys, images)


def test_sizes_come_from_the_checkpoint_unless_they_are_given():
    saved = pretraining(name="vit_b16", width=96, depth=3, heads=6, mlp_ratio=2.0, drop_path=0.5)
    ours = backbone_of(saved)
    assert (ours.name, ours.width, ours.depth, ours.heads, ours.mlp_ratio) == ("vit_b16", 96, 3, 6, 2.0)
    assert ours.drop_path == 0.1  # fine-tuning has its own
    ours = backbone_of(saved, name="vit_b16", heads=12, depth=4)
    assert (ours.width, ours.depth, ours.heads) == (96, 4, 12)


def test_an_image_size_that_is_left_open_is_that_of_pretraining():
    config = load_config("configs/finetune.py:own")
    assert inherit_backbone(config, pretraining(96)).data.image_size == (96, 96)
    config.model.backbone.name = "vit_ti16"
    with pytest.raises(UserError, match="type --config.data.image_size"):
        inherit_backbone(config, None)


def test_the_given_config_is_left_as_it_is():
    config = finetune_config()
    before = config.to_json()
    inherit_backbone(config, pretraining())
    assert config.to_json() == before


def test_windows_are_chosen_anew_at_another_size():
    saved = pretraining(name="swin_t", window=4)
    assert backbone_of(saved, size=128).window == 4
    assert backbone_of(saved, size=224).window is None
    assert backbone_of(saved, size=224, window=14).window == 14
    mixed = pretraining(size=224, name="mixmim_b", windows=(14, 14, 14, 7))
    assert tuple(backbone_of(mixed, size=224).windows) == (14, 14, 14, 7)
    assert backbone_of(mixed, size=384).windows is None


def test_the_last_stage_of_a_run_in_stages_counts():
    saved = pretraining(name="swin_t")
    saved.stages.update(image_sizes=[128, 224], windows=[4, 7])
    assert backbone_of(saved, size=224).window == 7
    assert backbone_of(saved, size=128).window is None


def test_position_grids_are_those_of_pretraining():
    assert backbone_of(pretraining(name="vit_b16")).position_grid == (8, 8)
    mixed = pretraining(size=224, name="mixmim_b")
    ours = backbone_of(mixed, size=384)
    assert ours.position_grid == (56, 56) and ours.positions is None  # MixMIM's stay fixed
    again = config_from_dict(json.loads(tuned(mixed, size=384).to_json()))
    assert backbone_of(again, size=448).position_grid == (56, 56)  # by way of a fine-tuned run
    assert backbone_of(pretraining(name="swin_t")).position_grid is None
    assert backbone_of(pretraining(name="vit_b16", positions="none")).position_grid is None
    assert backbone_of(mixed, size=384, position_grid=(96, 96)).position_grid == (96, 96)


@pytest.mark.slow
def test_fixed_positions_of_a_vit_become_learned_ones_that_begin_as_the_table_resampled():
    saved = pretraining(name="vit_ti16", width=16, depth=1, heads=2)
    config = tuned(saved, size=224)
    config.model.dtype = "float32"
    assert config.model.backbone.positions == "learned"
    target = variables_of(create_classifier(config.model, 3), 224)
    method = saved.method
    method.update(dtype="float32", target="pixel")
    source = variables_of(create_method(method), 128)
    variables, report = transfer(source, target)
    table = variables["params"]["encoder"]["position"]["pos_embed"]
    expected = resample("pos_embed", sincos_positions(8, 8, 16), (14, 14, 16))
    np.testing.assert_allclose(table, expected, atol=1e-6)
    assert not np.asarray(variables["params"]["encoder"]["position"]["pos_embed_cls"]).any()
    assert "params/encoder/position/pos_embed" in report.fresh


@pytest.mark.slow
def test_a_mixmim_at_another_size_reads_its_table_between_the_places_of_pretraining():
    """Fixed positions of 32 x 32 cells are those of 16 x 16, resampled, and still no parameter."""
    options = dict(name="mixmim_b", width=16, depths=(1, 1, 1, 1), heads=(1, 1, 2, 2))
    config = tuned(pretraining(size=64, **options), size=128)
    config.model.dtype = "float32"
    model = create_classifier(config.model, 3)
    variables = variables_of(model, 128)
    zeros = jnp.zeros((1, 32, 32, 16))
    found = model.encoder.apply({}, zeros, method=lambda module, x: module.position(x))[0]
    expected = resample("pos_embed", sincos_positions(16, 16, 16), found.shape)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert "position" not in variables["params"]["encoder"]


@pytest.mark.slow
def test_simmims_shared_table_is_copied_into_every_block():
    config = small.simmim(small.config())
    shared = dict(positions="none", relative_positions="shared", layer_scale=0.1)
    config.method.backbone.update(**shared)
    source = variables_of(create_method(config.method), 32)
    given = source["params"]["encoder"]["relative_position"]["relative_position_bias_table"]
    source["params"]["encoder"]["relative_position"]["relative_position_bias_table"] = jnp.arange(
        given.size, dtype=jnp.float32
    ).reshape(given.shape)
    saved = config_from_dict(json.loads(config.to_json()))
    for size in (32, 48):
        tuning = tuned(saved, size=size, relative_positions="own")
        tuning.model.dtype = "float32"
        assert tuning.model.backbone.layer_scale == 0.1
        target = variables_of(create_classifier(tuning.model, 3), size)
        variables, report = transfer(source, target)
        encoder = variables["params"]["encoder"]
        assert "relative_position" not in encoder and not any("relative" in path for path in report.unused)
        for block in encoder["blocks"].values():
            table = block["attn"]["relative_position"]["relative_position_bias_table"]
            wanted = resample(
                "relative_position_bias_table",
                source["params"]["encoder"]["relative_position"]["relative_position_bias_table"],
                table.shape,
            )
            np.testing.assert_array_equal(table, wanted)


def test_without_a_start_the_backbone_must_be_named():
    config = finetune_config()
    with pytest.raises(UserError, match="type --config.init=WORKDIR of a pre-training run, or --config"):
        inherit_backbone(config, None)
    config.model.backbone.name = "vit_b16"
    assert inherit_backbone(config, None).model.backbone.to_dict() == config.model.backbone.to_dict()


def test_two_different_backbones_are_refused():
    with pytest.raises(UserError, match="is 'swin_t', but the checkpoint of config.init has 'vit_b16'"):
        tuned(pretraining(name="vit_b16"), name="swin_t")
