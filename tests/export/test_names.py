import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from fastmim_jax.errors import UserError
from fastmim_jax.export.formats.names import to_ours, to_theirs
from fastmim_jax.models.swin import PatchMerging
from helpers import published, small

FAMILIES = list(small.BACKBONES)


def case_and_weights(family):
    cases, _ = published.load(f"fastmim_{family}")
    return cases["hog_norm1"], published.weights(cases, "hog_norm1")


@pytest.mark.parametrize("family", FAMILIES)
def test_there_and_back_keeps_every_bit(family):
    weights = case_and_weights(family)[1]
    table = f"fastmim_{family}"
    back = to_theirs(to_ours({**weights, "some.attn_mask": np.zeros(3)}, table), table)
    assert set(back) == set(weights)
    for name, value in weights.items():
        np.testing.assert_array_equal(back[name], value)


@pytest.mark.parametrize("family", FAMILIES)
def test_covers_exactly_the_variables_of_the_model(family):
    case, weights = case_and_weights(family)
    method = small.published_method(family, case)
    keys = {"params": jax.random.key(0), "mask": jax.random.key(1)}
    shapes = jax.eval_shape(method.init, keys, np.zeros((1, 64, 64, 3), np.float32))
    ours = flatten_dict(to_ours(weights, f"fastmim_{family}"), sep="/")
    expected = flatten_dict(shapes, sep="/")
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in expected.items()}


@pytest.mark.parametrize("direction", ["ours", "theirs"])
def test_unknown_names_are_refused(direction):
    with pytest.raises(UserError, match="1 names are not of the format 'fastmim_vit': surprise"):
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


def test_mmpretrain_merges_the_same_cells_in_another_order():
    cases, _ = published.load("mixmim")
    ours = to_ours(published.weights(cases, "norm1"), "mixmim")
    theirs = to_theirs(ours, "mmpretrain_mixmim")
    assert {"backbone.layers.0.blocks.0.ffn.layers.0.0.weight", "neck.ln1.bias"} <= set(theirs)
    x = np.random.default_rng(0).normal(size=(2, 4, 6, 16)).astype(np.float32)
    params = ours["params"]["encoder"]["downsamples_0"]
    expected = PatchMerging().apply({"params": params}, x)
    np.testing.assert_allclose(mmpretrain_merging(x, theirs, 0), expected, atol=1e-5)
    back = to_ours(theirs, "mmpretrain_mixmim")
    jax.tree.map(np.testing.assert_array_equal, back, jax.tree.map(np.asarray, ours))


def test_what_belongs_together_comes_together():
    names = {"encoder.blocks.0.attn.q_bias": np.zeros(4)}
    with pytest.raises(UserError, match="q_bias only together with encoder.blocks.0.attn.v_bias"):
        to_ours(names, "simmim_vit")
    tables = {"params": {"encoder": {"position": {"pos_embed": np.zeros((2, 3, 4))}}}}
    with pytest.raises(UserError, match="pos_embed only together with encoder/position/pos_embed_cls"):
        to_theirs(tables, "simmim_vit")


def test_learned_positions_are_those_of_cls_and_a_square():
    table = np.random.default_rng(0).normal(size=(1, 10, 4)).astype(np.float32)
    position = to_ours({"pos_embed": table}, "fastmim_vit_classifier")["params"]["encoder"]["position"]
    np.testing.assert_array_equal(position["pos_embed"].reshape(9, 4), table[0, 1:])
    np.testing.assert_array_equal(position["pos_embed_cls"], table[0, :1])
    with pytest.raises(UserError, match="8 positions make no square"):
        to_ours({"pos_embed": table[:, :9]}, "fastmim_vit_classifier")
