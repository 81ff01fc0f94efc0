"""Layer-wise learning rates and weight decay of fine-tuning, parameter by parameter, at published sizes."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fastmim_jax.build import create_classifier
from fastmim_jax.config import finetune_config
from fastmim_jax.export.formats import names
from fastmim_jax.train.optimizer import decay_groups, layer_lr_scales, make_optimizer, no_decay_names
from helpers import published
from helpers.sweeps import sweep

pytestmark = pytest.mark.slow

GROUPS = published.load("finetune_groups")[0]
LEARNED = {"backbone.positions": "learned"}
SIMMIM_VIT = {
    "backbone.positions": "none",
    "backbone.relative_positions": "own",
    "backbone.layer_scale": 0.1,
}
# family: (backbone, what it has of its own, key table)
MODELS = {
    "fastmim_vit": ("vit_b16", LEARNED, "fastmim_vit_classifier"),
    "fastmim_swin": ("swin_b", {}, "fastmim_swin_classifier"),
    "fastmim_pvtv2": ("pvt_v2_b2", {}, "fastmim_pvtv2_classifier"),
    "fastmim_cmt": ("cmt_s", {}, "fastmim_cmt_classifier"),
    "mixmim": ("mixmim_b", {}, "mixmim_classifier"),
    "mae_vit": ("vit_b16", LEARNED, "fastmim_vit_classifier"),
    "simmim_swin": ("swin_b", {"pooling": "pool"}, "swin_classifier"),
    "simmim_vit": ("vit_b16", SIMMIM_VIT, "simmim_vit_classifier"),
}
POSITIONS = re.compile(r"(cls_token|pos_embed|relative_position_bias_table|relative_pos_[abcd])$")
AFTER_ALL_BLOCKS = re.compile(r"(fc_norm|norm|norm4|_fc|_bn|head)\.(weight|bias)$")


def expected(family):
    """{published name: (groups behind it, whether it decays)}."""
    found = {}
    for group in GROUPS[family]["groups"]:
        for entry in group["powers"].split():
            indices, _, power = entry.rpartition(":")
            for decays, key in enumerate(("no_decay", "decay")):
                for pattern in group[key]:
                    found[pattern.format(*indices.split("."))] = (int(power), bool(decays))
    assert len(found) == GROUPS[family]["parameters"]
    return found


@pytest.fixture(scope="module")
def shapes():
    """name -> (encoder, shapes of the parameters) of a classifier for 224-px images."""
    known = {}

    def of(name, options):
        key = name, *options.items()
        if key not in known:
            config = finetune_config().model
            config.update_from_flattened_dict({"backbone.name": name, "layers": "scanned", **options})
            model = create_classifier(config, 1000)
            images = jnp.zeros((1, 224, 224, 3))
            known[key] = model.encoder, jax.eval_shape(model.init, jax.random.key(0), images)["params"]
        return known[key]

    return of


def ours(family, shapes, official):
    """{published name: (scale, decays)}: every parameter, in the published form, holds its own numbers."""
    name, options, table = MODELS[family]
    encoder, params = shapes(name, options)
    scales = layer_lr_scales(params, encoder, GROUPS[family]["layer_decay"], official)
    groups = decay_groups(params, no_decay_names(params, encoder, official))

    def published_form(numbers):
        filled = jax.tree.map(lambda x, like: np.broadcast_to(np.float32(x), like.shape), numbers, params)
        renamed = names.to_theirs({"params": filled}, table)
        assert all(x.min() == x.max() for x in renamed.values()), "a published array is in two groups"
        return {name: x.flat[0] for name, x in renamed.items()}

    decays = published_form(jax.tree.map(lambda group: group == "decay", groups))
    return {name: (scale, bool(decays[name])) for name, scale in published_form(scales).items()}


def assert_groups(found, wanted, layer_decay):
    assert set(found) == set(wanted)
    for name, (power, decays) in wanted.items():
        scale, decays_here = found[name]
        assert scale == pytest.approx(layer_decay**power, rel=1e-6), name  # float32
        assert decays_here == decays, name


@pytest.mark.parametrize(
    "family", sweep(MODELS, ["mae_vit", "fastmim_vit", "fastmim_swin", "mixmim", "simmim_vit"])
)
def test_official_groups_equal_published(family, shapes):
    wanted = expected(family)
    if family == "simmim_swin":  # the one published fine-tuning of a Swin that spares its tables
        wanted = {name: (power, decays or "table" in name) for name, (power, decays) in wanted.items()}
    found = ours(family, shapes, True)
    assert_groups(found, wanted, GROUPS[family]["layer_decay"])


@pytest.mark.parametrize("family", MODELS)
def test_default_groups_spare_all_positions_and_let_the_head_learn_fastest(family, shapes):
    published_groups = expected(family)
    wanted = {
        name: (
            0 if AFTER_ALL_BLOCKS.match(name) else power,
            decays and not POSITIONS.search(name),
        )
        for name, (power, decays) in published_groups.items()
    }
    changed = {name for name in wanted if wanted[name] != published_groups[name]}
    if family == "mixmim":
        assert {"head.weight", "head.bias", "norm.weight", "norm.bias"} < changed
    assert (not changed) == (family in ("fastmim_vit", "fastmim_pvtv2", "mae_vit", "simmim_swin"))
    assert_groups(ours(family, shapes, False), wanted, GROUPS[family]["layer_decay"])


def test_scales_multiply_the_whole_update_decay_included():
    params = {"a": {"kernel": jnp.ones(3)}, "b": {"kernel": jnp.ones(3)}}
    recipe = dict(betas=(0.9, 0.999), epsilon=1e-8, weight_decay=0.5)
    scales = {"a": {"kernel": 0.25}, "b": {"kernel": 1.0}}
    plain, scaled = make_optimizer(params, **recipe), make_optimizer(params, **recipe, scales=scales)
    grads = jax.tree.map(lambda x: 2 * x, params)
    whole, _ = plain.update(grads, plain.init(params), params)
    part, _ = scaled.update(grads, scaled.init(params), params)
    # AdamW's first step by hand: sign of the gradient, and the decay.
    np.testing.assert_allclose(whole["a"]["kernel"], 1.5, rtol=1e-5)
    np.testing.assert_allclose(part["a"]["kernel"], 0.25 * 1.5, rtol=1e-5)
    np.testing.assert_allclose(part["b"]["kernel"], whole["b"]["kernel"], rtol=1e-7)
