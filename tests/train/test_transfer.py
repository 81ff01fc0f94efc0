"""From pre-training to a classifier: resampled, shallower, and as the published loader does it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fastmim_jax import create_model
from fastmim_jax.errors import UserError
from fastmim_jax.export.formats.names import to_ours
from fastmim_jax.models.heads import Classifier
from fastmim_jax.models.resample import flat_relative_position, resample
from fastmim_jax.train.transfer import modules, transfer
from helpers import published, small
from helpers.sweeps import sweep

pytestmark = pytest.mark.slow

LOADED = published.load("load")[1]
SIZES = {"vit": (112, {}), "swin": (224, {}), "pvtv2": (96, {}), "cmt": (96, {"width": 40})}


def arrays(family, when):
    prefix = f"{family}/{when}/"
    return {name.removeprefix(prefix): x for name, x in LOADED.items() if name.startswith(prefix)}


def classifier(family, side, options):
    cases, _ = published.load(f"fastmim_{family}")
    encoder = small.published_method(family, cases["hog_norm1"]).encoder
    encoder = encoder.clone(window=7) if family == "swin" else encoder
    encoder = encoder.clone(positions="learned") if family == "vit" else encoder
    model = Classifier(encoder, 10, options=options or None)
    images = published.images(0, 1, side, side)
    return model, images, small.variables_of(model, jax.random.key(0), images)


def with_published_positions(family, source, before, after):
    """Steps of the published loader beyond ours: ViT's table is resampled, not computed anew; CMT's
    positions are resampled as pictures, by the helper that nothing calls (it is called for this fixture).
    """
    if family == "vit":
        grid = before["pos_embed"][0, 1:].reshape(4, 4, -1)
        cls = before["pos_embed"][0, :1]
        source["params"]["encoder"]["position"] = {"pos_embed": grid, "pos_embed_cls": cls}
    for index, letter in enumerate("abcd" if family == "cmt" else ""):
        name = f"relative_pos_{letter}"
        flat = flat_relative_position(before[f"encoder.{name}"], after[name].shape)
        # 1e-5: PyTorch rounds places to float32, which shows most in the 576 rows of the first stage.
        np.testing.assert_allclose(flat, after[name], atol=1e-5)
        side = 24 >> index
        stage = source["params"]["encoder"][f"stages_{index}"]
        stage["relative_position"] = np.asarray(flat).reshape(len(flat), side, side, 3, 3)
    return source


@pytest.mark.parametrize("family", sweep(SIZES, ["vit", "swin"]))
def test_a_checkpoint_gives_the_published_logits_at_another_size(family):
    model, images, initial = classifier(family, *SIZES[family])
    before, after = arrays(family, "before"), arrays(family, "after")
    source = to_ours({k: v for k, v in before.items() if "pos_embed" not in k}, f"fastmim_{family}")
    source = with_published_positions(family, source, before, after)
    variables, report = transfer(source, initial)

    names = {k: v for k, v in after.items() if k != "pos_embed" and "relative_pos_" not in k}
    expected = to_ours(names, f"fastmim_{family}_classifier")
    fresh = {"head", *(() if family == "pvtv2" else ("pooling",))}
    assert set(modules(report.fresh)) == fresh
    assert {path.split("/")[1] for path in report.unused} <= {"mask_token", "encoder"}
    for collection, tree in expected.items():  # heads are random in the fixture; tables are compared
        for name in fresh & set(tree):
            variables[collection][name] = tree[name]
    tables = jax.tree_util.tree_leaves_with_path(expected["params"].get("encoder", {}))
    for path, table in tables:
        ours = variables["params"]["encoder"]
        for key in path:
            ours = ours[key.key]
        np.testing.assert_allclose(ours, table, atol=1e-6)  # float32 against FITPACK's float64
    if family == "vit":
        pos_embed = variables["params"]["encoder"]["position"]["pos_embed"].reshape(49, -1)
        np.testing.assert_allclose(pos_embed, after["pos_embed"][0, 1:], atol=1e-6)
    logits = jax.jit(model.apply)(variables, images)
    np.testing.assert_allclose(logits, LOADED[f"{family}/logits"], atol=1e-4)


def test_a_shallow_checkpoint_says_which_blocks_start_fresh():
    sizes = dict(width=8, heads=(1, 1, 2, 2))
    shallow = create_model("swin_t", depths=(1, 2, 2, 1), **sizes)
    model = Classifier(create_model("swin_t", depths=(2, 2, 6, 1), **sizes), 3)
    images = jnp.zeros((1, 64, 64, 3))
    source = {"params": {"encoder": small.variables_of(shallow, jax.random.key(0), images)["params"]}}
    target = small.variables_of(model, jax.random.key(1), images, seed=1)
    variables, report = transfer(source, target)
    told = dict(report.describe())
    assert told["start fresh"] == "encoder/stages_0/blocks 1, encoder/stages_2/blocks 2-5, head, pooling"
    assert told["not used"] == "encoder/norm" and told["resampled"] == "none"
    blocks, theirs = variables["params"]["encoder"]["stages_2"]["blocks"], source["params"]["encoder"]
    taken, kept = blocks["1"]["mlp"]["fc1"]["kernel"], blocks["4"]["mlp"]["fc1"]["kernel"]
    np.testing.assert_array_equal(taken, theirs["stages_2"]["blocks"]["1"]["mlp"]["fc1"]["kernel"])
    fresh = target["params"]["encoder"]["stages_2"]["blocks"]["4"]["mlp"]["fc1"]["kernel"]
    np.testing.assert_array_equal(kept, fresh)


def vit(size, classes=3, **options):
    """-> (a tiny classifier with learned positions, its initial variables)."""
    sizes = dict(width=8, depth=2, heads=2, positions="learned", **options)
    model = Classifier(create_model("vit_ti16", **sizes), classes)
    return model, small.variables_of(model, jax.random.key(0), jnp.zeros((1, size, size, 3)), seed=size)


def test_a_learned_table_is_resampled_and_its_cls_is_not():
    (_, source), (_, target) = vit(128), vit(224)
    table = np.random.default_rng(0).normal(size=(8, 8, 8)).astype(np.float32)
    source["params"]["encoder"]["position"]["pos_embed"] = table
    variables, report = transfer(source, target)
    assert report.resampled == ["params/encoder/position/pos_embed"]
    assert not report.fresh and not report.unused
    found = variables["params"]["encoder"]["position"]
    np.testing.assert_allclose(found["pos_embed"], resample("pos_embed", table, (14, 14, 8)), atol=1e-6)
    np.testing.assert_array_equal(
        found["pos_embed_cls"], source["params"]["encoder"]["position"]["pos_embed_cls"]
    )


def test_a_head_for_other_classes_starts_fresh():
    (_, source), (_, same), (_, other) = vit(32), vit(48, 3), vit(48, 5)
    source["params"]["head"]["bias"] = np.ones(3, np.float32)
    taken, _ = transfer(source, same)
    np.testing.assert_array_equal(taken["params"]["head"]["bias"], np.ones(3))
    fresh, report = transfer(source, other)
    assert sorted(report.fresh) == ["params/head/bias", "params/head/kernel"] == sorted(report.unused)
    np.testing.assert_array_equal(fresh["params"]["head"]["kernel"], other["params"]["head"]["kernel"])


def test_another_architecture_is_no_start():
    source = {"params": {"encoder": vit(64)[1]["params"]["encoder"]}}
    model = Classifier(create_model("swin_t", width=8, depths=(1, 1, 2, 1), heads=(1, 1, 2, 2)), 3)
    target = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    with pytest.raises(UserError, match="^0 of .* arrays of the backbone fit: the source has"):
        transfer(source, target)


def test_cmt_positions_are_resampled_as_grids_by_default():
    table = np.random.default_rng(0).normal(size=(2, 8, 8, 1, 1)).astype(np.float32)
    wide = resample("stages_0/relative_position", table, (2, 8, 16, 1, 2))
    np.testing.assert_allclose(wide[..., 0], wide[..., 1], atol=1e-6)  # one key became two
    turned = resample("relative_position", table.swapaxes(1, 2), (2, 16, 8, 2, 1))
    np.testing.assert_allclose(turned, np.asarray(wide).transpose(0, 2, 1, 4, 3), atol=1e-5)


@pytest.mark.parametrize(
    ("source", "told"),
    [
        (
            {"encoder": {"norm": {"scale": np.ones(3)}}},
            r"'params/encoder/norm/scale' is \(3,\) in the source",
        ),
        (
            {"other": {"norm": {"scale": np.ones(3)}}},
            "0 of 1 arrays of the backbone fit: the source has other",
        ),
    ],
)
def test_what_does_not_fit_is_told(source, told):
    target = {"params": {"encoder": {"norm": {"scale": np.ones(4)}}}}
    with pytest.raises(UserError, match=told):
        transfer({"params": source}, target)
