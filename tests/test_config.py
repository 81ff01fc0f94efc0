"""Every variant of the config files is valid and builds; old names are refused with the new ones."""

import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from fastmim_jax.auto_schedule import fill_auto
from fastmim_jax.models.zoo import backbone_fields
from fastmim_jax.train.pretrain import make_pretrain_stage, make_pretrain_stages
from fastmim_jax.validate import check_pretraining
from helpers.commands import refused
from helpers.sweeps import sweep

CONFIGS = Path(__file__).parents[1] / "configs"


def load(name):
    spec = importlib.util.spec_from_file_location(name, CONFIGS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SHAPES = [((96, 160), 1), ((128, 128), 3), ((96, 160), 4), ((64, 64), 1)]


NAMES = {
    name: load(name).VARIANTS
    for name in ("fastmim", "mixmim", "mae", "crossmae", "localmim", "simmim", "pr_mim", "own")
}
VARIANTS = [(name, variant) for name, variants in NAMES.items() for variant in variants]


# One of each family, target and method: gradients take seconds to trace, and differ in sizes alone.
STEPPED = {
    "fastmim": ("vit_b16", "swin_b", "pvt_v2_b2", "pvt_v2_b2_linear", "cmt_s", "convnext_t"),
    "mixmim": ("base", "base_hog", "swin_b"),
    "mae": ("vit_h14",),
    "crossmae": ("vit_b16",),
    "localmim": ("swin_b",),
    "simmim": ("swin_b", "vit_b16"),
    "pr_mim": ("mae_vit_b16", "mixmim_base"),
    "own": (),
}
# One of each method; test_zoo.py builds the other families, which take longest.
KEPT = {name: variants[:1] for name, variants in STEPPED.items()}


def make_shallow(backbone):
    """Two blocks, or one a stage: the others are the same, and Swin's alternate."""
    if "depth" in backbone_fields(backbone.name):
        backbone.depth = 2
    else:
        backbone.depths = (1, 1, 2, 1)


@pytest.mark.parametrize(("name", "variant"), VARIANTS)
def test_every_variant_is_valid(name, variant):
    config = fill_auto(load(name).get_config(variant), 10_000).config
    check_pretraining(config, platform="cpu", devices=1)


BUILT = [(index, *names) for index, names in enumerate(VARIANTS)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("index", "name", "variant"), sweep(BUILT, [case for case in BUILT if case[2] in KEPT[case[1]]])
)
def test_every_variant_builds_at_its_real_width(index, name, variant):
    """Abstractly and shallow, with other image shapes and channels in turn.

    tests/models/test_zoo.py builds every backbone at its real depth; tiny ones run in tests/train.
    """
    config = load(name).get_config(variant)
    make_shallow(config.method.backbone)
    config.method.layers = "scanned"
    if config.method.fuse_layers:
        config.method.fuse_layers = (1, config.method.backbone.depth)
    if config.method.local_layers and config.method.backbone.depth:
        config.method.update(local_layers=(1, 2), target_scales=(4, 32))
    shape, config.data.channels = SHAPES[index % len(SHAPES)]
    block = config.method.block_size
    if not config.method.backbone.window:  # one that is set fits its own size only
        config.data.image_size = tuple(side // 32 * 28 if block == 14 else side for side in shape)
    cell = block * config.method.mask_grid
    config.data.image_size = tuple(-(-side // cell) * cell for side in config.data.image_size)
    run = make_pretrain_stage(config, 100_000, jax.devices()[:1])
    height, width = config.data.image_size
    batch = {
        "image": jax.ShapeDtypeStruct((4096, height, width, config.data.channels), jnp.uint8),
        "flip": jax.ShapeDtypeStruct((4096,), bool),
    }
    config = run.config  # with numbers for "auto"
    assert run.plan.peak_lr == config.optimizer.base_lr * run.plan.batch_size / 256
    if variant not in STEPPED[name]:
        return
    with jax.set_mesh(run.mesh):
        state, metrics = jax.eval_shape(run.step.jitted, run.abstract, batch)
    assert metrics["loss"].shape == () and metrics["loss"].dtype == jnp.float32
    assert [x.shape for x in jax.tree.leaves(state)] == [x.shape for x in jax.tree.leaves(run.abstract)]


@pytest.mark.slow
def test_progressive_variants_have_three_stages():
    config = load("fastmim_p").get_config("swin_b")
    make_shallow(config.method.backbone)
    runs = make_pretrain_stages(config, 100_000, jax.devices()[:1])
    assert [run.plan.image_size for run in runs] == [(128, 128), (160, 160), (192, 192)]
    tables = [
        run.abstract.params["encoder"]["stages_2"]["blocks"]["1"]["attn"]["relative_position_bias_table"]
        for run in runs
    ]
    assert [table.shape for table in tables] == [(7, 7, 16), (9, 9, 16), (11, 11, 16)]


@pytest.mark.parametrize("old, new", [("base", "pretrain_config"), ("finetuning", "finetune_config")])
def test_a_config_file_with_an_old_name_is_told_the_new_one(capsys, tmp_path, old, new):
    file = tmp_path / "mine.py"
    file.write_text(f"from fastmim_jax.config import {old}\n\nget_config = {old}\n")
    message = refused(capsys, "pretrain", f"--config={file}", f"--workdir={tmp_path / 'w'}")
    assert f"config.{old} is now {new}" in message and f"from fastmim_jax.config import {new}" in message
    assert not (tmp_path / "w").exists()
