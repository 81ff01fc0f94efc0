import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from fastmim_jax.errors import FormatMismatch
from fastmim_jax.export.formats.names import to_ours, to_theirs
from fastmim_jax.models.swin import PatchMerging
from helpers import published, small

FAMILIES = list(small.BACKBONES)


def case_and_weights(family):
    cases, _ = published.load(f"fastmim_{family}")
    return cases["hog_norm1"], published.weights(cases, "hog_norm1")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_round_trip_is_exact(family):
    weights = case_and_weights(family)[1]
    table = f"fastmim_{family}"
    back = to_theirs(to_ours({**weights, "some.attn_mask": np.zeros(3)}, table), table)
    assert set(back) == set(weights)
    for name, value in weights.items():
        np.testing.assert_array_equal(back[name], value)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_the_table_covers_exactly_the_variables_of_the_model(family):
    case, weights = case_and_weights(family)
    method = small.published_method(family, case)
    keys = {"params": jax.random.key(0), "mask": jax.random.key(1)}
    shapes = jax.eval_shape(method.init, keys, np.zeros((1, 64, 64, 3), np.float32))
    ours = flatten_dict(to_ours(weights, f"fastmim_{family}"), sep="/")
    expected = flatten_dict(shapes, sep="/")
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in expected.items()}


@pytest.mark.parametrize("direction", ["ours", "theirs"])
def test_unknown_names_are_refused(direction):
    with pytest.raises(FormatMismatch, match="1 name is not in the format 'fastmim_vit': surprise"):
        if direction == "ours":
            to_ours({"surprise": np.zeros(1)}, "fastmim_vit")
        else:
            to_theirs({"params": {"surprise": np.zeros(1)}}, "fastmim_vit")


def mmpretrain_merging(x, weights, stage):
    """PatchMerging of mmpretrain on (B, h, w, C): its unfold reads channel by channel."""
    name = f"backbone.layers.{stage}.downsample"
    batch, rows, columns, width = x.shape
    x = x.reshape(batch, rows // 2, 2, columns // 2, 2, width).transpose(0, 1, 3, 5, 2, 4)
    x = x.reshape(batch, rows // 2, columns // 2, 4 * width)
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    x = x * weights[f"{name}.norm.weight"] + weights[f"{name}.norm.bias"]
    return x @ weights[f"{name}.reduction.weight"].T


@pytest.mark.slow
def test_mmpretrain_merges_the_same_tokens_in_another_order():
    cases, _ = published.load("mixmim")
    ours = to_ours(published.weights(cases, "norm1"), "mixmim")
    theirs = to_theirs(ours, "mmpretrain_mixmim")
    assert {"backbone.layers.0.blocks.0.ffn.layers.0.0.weight", "neck.ln1.bias"} <= set(theirs)
    x = np.random.default_rng(0).normal(size=(2, 4, 6, 16)).astype(np.float32)
    params = ours["params"]["encoder"]["downsamples_0"]
    expected = PatchMerging().apply({"params": params}, jnp.asarray(x))
    np.testing.assert_allclose(mmpretrain_merging(x, theirs, 0), expected, atol=1e-5)
    back = to_ours(theirs, "mmpretrain_mixmim")
    jax.tree.map(np.testing.assert_array_equal, back, jax.tree.map(np.asarray, ours))


def test_arrays_that_are_joined_are_needed_together():
    names = {"encoder.blocks.0.attn.q_bias": np.zeros(4)}
    with pytest.raises(FormatMismatch, match="q_bias only together with encoder.blocks.0.attn.v_bias"):
        to_ours(names, "simmim_vit")
    tables = {"params": {"encoder": {"position": {"pos_embed_cls": np.zeros((1, 4))}}}}
    with pytest.raises(FormatMismatch, match="cls only together with encoder/position/pos_embed"):
        to_theirs(tables, "simmim_vit")


def test_positions_without_an_entry_of_cls_are_those_of_a_vit_without_cls():
    tables = {"params": {"encoder": {"position": {"pos_embed": np.ones((2, 3, 4))}}}}
    assert to_theirs(tables, "simmim_vit")["encoder.pos_embed"].shape == (1, 6, 4)


def test_learned_positions_are_split_into_cls_and_a_square_grid():
    table = np.random.default_rng(0).normal(size=(1, 10, 4)).astype(np.float32)
    position = to_ours({"pos_embed": table}, "fastmim_vit_classifier")["params"]["encoder"]["position"]
    np.testing.assert_array_equal(position["pos_embed"].reshape(9, 4), table[0, 1:])
    np.testing.assert_array_equal(position["pos_embed_cls"], table[0, :1])
    with pytest.raises(FormatMismatch, match="'pos_embed' does not fit: 8 positions make no square"):
        to_ours({"pos_embed": table[:, :8]}, "fastmim_vit_classifier")


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        (
            "blocks.0.attn.qkv.weight",
            (4,),
            "'blocks.0.attn.qkv.weight' is an array of shape .4,., expected 2 a",
        ),
        ("patch_embed.proj.weight", (4, 4), "'patch_embed.proj.weight' is .* expected 4 axes"),
        ("norm.bias", (), "'norm.bias' is an array of shape .., expected 1 axis"),
        ("pos_embed", (2, 10, 4), "'pos_embed' does not fit: .*expected a first axis of length 1"),
        ("norm.bias", (0,), "expected at least one value"),
    ],
)
def test_an_array_of_the_wrong_shape_is_named(name, shape, message):
    with pytest.raises(FormatMismatch, match=message):
        to_ours({name: np.zeros(shape, np.float32)}, "fastmim_vit_classifier")


def test_arrays_that_cannot_be_joined_are_named():
    state = {f"encoder.layer.0.attention.attention.{part}.bias": np.zeros(4) for part in ("query", "key")}
    state["encoder.layer.0.attention.attention.value.bias"] = np.zeros(3)
    joined = to_ours(state, "hf_vit_model")["params"]["encoder"]["blocks"]["0"]["attn"]["qkv"]["bias"]
    assert joined.shape == (11,)  # checked against the model's shapes later
    state = {name.replace("bias", "weight"): np.zeros((4, len(x))) for name, x in state.items()}
    with pytest.raises(
        FormatMismatch, match="query.weight, .* does not fit: .4, 4. and .* cannot be joined"
    ):
        to_ours(state, "hf_vit_model")
