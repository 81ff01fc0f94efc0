import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fastmim_jax import create_model
from fastmim_jax.export.formats.names import to_ours
from fastmim_jax.models.base import AttentionGroups
from fastmim_jax.models.heads import Classifier
from fastmim_jax.models.swin import (
    SwinBlock,
    choose_window,
    shift_mask,
    window_partition,
    window_reverse,
)
from fastmim_jax.models.window_attention import WindowAttention, group_attention, masked_attention
from helpers import initial, published, small

TINY = dict(width=8, depths=(2, 2, 2, 1), heads=(1, 1, 2, 2))


def test_every_stage_equals_published():
    cases, numbers = published.load("fastmim_swin")
    model = small.published_method("swin", cases["hog_norm1"]).encoder
    params = to_ours(published.weights(cases, "hog_norm1"), "fastmim_swin")["params"]["encoder"]
    hidden = numbers["hog_norm1/noise"].argsort(1).argsort(1) >= 1
    mask = hidden.reshape(4, 2, 2).repeat(32, 1).repeat(32, 2)[..., None]
    token = published.weight(0, "mask_token", (1, 3, 1, 1), "table").reshape(-1)
    seen = np.where(mask, token, published.images(0, 4, 64, 64))

    @jax.jit
    def outputs(images):
        variables = {"params": params}
        return model.apply(variables, images, method="embed"), model.apply(
            variables, images, method="features"
        )

    patches, grids = outputs(seen)
    # 1e-4 as for predictions.
    names = ["patch_embed", "layers.0.blocks.1", "layers.1.blocks.1", "layers.2.blocks.1", "norm"]
    for name, ours in zip(names, [patches, *grids], strict=True):
        expected = numbers[f"hog_norm1/act.encoder.{name}"].reshape(ours.shape)
        np.testing.assert_allclose(ours, expected, atol=1e-4, err_msg=name)


@pytest.mark.parametrize(
    ("side", "window"),
    [(1, 4), (2, 4), (3, 3), (4, 4), (5, 5), (7, 7), (12, 12), (14, 14), (32, 16), (20, 10)],
)
def test_windows_follow_the_image_size(side, window):
    assert choose_window(side) == window


def test_a_side_without_a_window_is_an_error():
    with pytest.raises(ValueError, match="no window divides 17 cells"):
        choose_window(17)


def test_windows_come_apart_and_together():
    x = np.arange(2 * 6 * 8 * 3).reshape(2, 6, 8, 3)
    windows = window_partition(x, (3, 4))
    assert windows.shape == (2, 4, 12, 3)
    np.testing.assert_array_equal(windows[1, 1].reshape(3, 4, 3), x[1, :3, 4:])
    np.testing.assert_array_equal(window_reverse(windows, (3, 4), (6, 8)), x)


def test_shifted_windows_hold_only_neighbours():
    """A cell may attend to those of its window that lie near it in the picture, none across the edge."""
    grid, window, shift = (6, 8), (3, 4), (1, 2)
    mask = shift_mask(grid, window, shift)
    rows, columns = np.indices(grid)
    rolled = [np.roll(axis, [-step for step in shift], (0, 1))[None] for axis in (rows, columns)]
    rows, columns = (window_partition(axis, window)[0] for axis in rolled)
    near = np.ones(mask.shape, bool)
    for axis, side in ((rows, window[0]), (columns, window[1])):
        near &= np.abs(axis[:, :, None] - axis[:, None, :]) < side
    np.testing.assert_array_equal(mask, near)


@pytest.mark.slow
def test_attention_is_its_definition():
    x = jax.random.normal(jax.random.key(0), (2, 3, 6, 8))
    mask = np.random.default_rng(0).random((3, 6, 6)) < 0.7
    mask |= np.eye(6, dtype=bool)
    module = WindowAttention(heads=2, window=(2, 3))
    params = initial.variables(module, jax.random.key(1), x)["params"]
    table = np.random.default_rng(1).normal(size=(3, 5, 2))
    params = {**params, "relative_position_bias_table": table.astype(np.float32)}
    found = jax.jit(module.apply)({"params": params}, x, mask)

    cells = [(row, column) for row in range(2) for column in range(3)]
    qkv = np.asarray(x @ params["qkv"]["kernel"] + params["qkv"]["bias"], np.float64)
    query, key, value = np.moveaxis(qkv.reshape(2, 3, 6, 3, 2, 4), 3, 0)
    out = np.zeros((2, 3, 6, 2, 4))
    for i, (row, column) in enumerate(cells):
        bias = np.stack([table[row - r + 1, column - c + 2] for r, c in cells])
        scores = np.einsum("bwhd,bwjhd->bwjh", query[:, :, i], key) / 2 + bias
        scores[:, ~mask[:, i]] = -np.inf
        weights = np.exp(scores - scores.max(2, keepdims=True))
        out[:, :, i] = np.einsum("bwjh,bwjhd->bwhd", weights / weights.sum(2, keepdims=True), value)
    expected = out.reshape(2, 3, 6, 8) @ params["proj"]["kernel"] + params["proj"]["bias"]
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.slow
def test_a_change_reaches_its_window_and_no_further():
    x = jax.random.normal(jax.random.key(0), (1, 8, 8, 4))
    block = SwinBlock(heads=1, window=(4, 4), shift=(2, 2))
    variables = initial.variables(block, jax.random.key(1), x)
    apply = jax.jit(block.apply)
    before, after = apply(variables, x), apply(variables, x.at[0, 3, 3, 0].add(1.0))
    changed = np.abs(after - before)[0].max(-1) > 0
    expected = np.zeros((8, 8), bool)
    expected[2:6, 2:6] = True
    np.testing.assert_array_equal(changed, expected)


@pytest.mark.exhaustive
@pytest.mark.slow
def test_wide_images_scanned_and_unrolled():
    images = np.random.default_rng(0).normal(size=(2, 96, 160, 5)).astype(np.float32)
    model = create_model("swin_t", **TINY)
    variables = initial.variables(model, jax.random.key(0), images)
    tables = variables["params"]["stages_0"]["blocks"]["1"]["attn"]["relative_position_bias_table"]
    assert tables.shape == (5, 9, 1)  # windows of 3 x 5

    @jax.jit
    def outcomes(variables, images):
        modules = model, model.clone(layers="scanned", remat="full")
        return [module.apply(variables, images, method="features") for module in modules]

    plain, scanned = outcomes(variables, images)
    assert [grid.shape for grid in plain] == [
        (2, 24, 40, 8),
        (2, 12, 20, 16),
        (2, 6, 10, 32),
        (2, 3, 5, 64),
    ]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), plain, scanned)


@pytest.mark.exhaustive
@pytest.mark.slow
def test_learned_positions_begin_as_the_fixed_ones():
    images = jnp.zeros((1, 64, 32, 3))
    model = create_model("swin_t", **TINY, positions="learned")

    @jax.jit
    def outcomes(images):
        params = initial.variables(model, jax.random.key(0), images)["params"]
        variables = {"params": params}
        kinds = (model.clone(positions=name) for name in ("learned", "fixed", "none"))
        return params["position"], [kind.apply(variables, images).tokens for kind in kinds]

    position, (learned, fixed, none) = outcomes(images)
    assert {name: x.shape for name, x in position.items()} == {"pos_embed": (16, 8, 8)}
    np.testing.assert_array_equal(learned, fixed)
    assert np.abs(fixed - none).max() > 1e-2


@pytest.mark.parametrize(
    ("options", "shape", "message"),
    [(dict(window=5), (64, 64), "windows of 5 x 5 cells do not fit a grid of 16 x 16"),
     (dict(), (64, 72), "images are 64 x 72 pixels, expected sides that are multiples of 32")],
)  # fmt: skip
def test_windows_or_sides_that_do_not_fit_are_errors(options, shape, message):
    model = create_model("swin_t", **TINY, **options)
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *shape, 3)))


def test_depth_groups_are_the_published_ones():
    model = create_model("swin_b")
    groups = {
        "stem/patch/kernel": 0,
        "stages_0/blocks/1/attn/qkv/kernel": 2,
        "downsamples_0/reduction/kernel": 2,
        "stages_1/blocks/0/norm1/scale": 3,
        "downsamples_1/norm/scale": 4,
        "stages_2/blocks/17/mlp/fc2/bias": 22,
        "downsamples_2/reduction/kernel": 22,
        "stages_3/blocks/1/attn/relative_position_bias_table": 24,
        "position/pos_embed": 25,  # as SimMIM has it
        "norm/scale": 25,
    }
    assert {path: model.layer_group(path) for path in groups} == groups


def test_groups_on_a_finer_grid():
    labels = np.array([[[0, 1, 1], [1, 0, 0]]])
    indices = (np.array([[0, 5, 4]]), np.array([[2, 1, 3]]))
    fine = AttentionGroups(labels, indices).upsample(2)
    np.testing.assert_array_equal(fine.labels, labels.repeat(2, 1).repeat(2, 2))
    for part, index in enumerate(fine.indices):
        assert sorted(index[0]) == np.flatnonzero(fine.labels[0] == part).tolist()


def test_group_attention_equals_masked_attention():
    random = np.random.default_rng(0)
    qkv = random.normal(size=(6, 8, 3, 2, 4)).astype(np.float32)
    bias = jnp.asarray(random.normal(size=(1, 2, 8, 8)), jnp.float32)
    order = np.stack([random.permutation(8) for _ in range(3)])  # 3 groups of 2 images
    indices = (jnp.asarray(order[:, :3]), jnp.asarray(order[:, 3:]))
    labels = (order.argsort(1) >= 3).repeat(2, 0)
    same = (labels[:, :, None] == labels[:, None, :])[:, None]

    @jax.jit
    def both(qkv):
        per_window = jnp.moveaxis(qkv[:, None], 3, 0)
        grouped = group_attention(*jnp.moveaxis(qkv, 2, 0), bias, indices)
        return grouped, masked_attention(*per_window, bias, same)[:, 0]

    np.testing.assert_allclose(*both(qkv), atol=1e-6)


@pytest.mark.exhaustive
@pytest.mark.slow
def test_outputs_are_those_of_every_stage():
    model = create_model("swin_t", **TINY)
    images = jax.random.normal(jax.random.key(0), (2, 64, 32, 3))

    @jax.jit
    def outcomes(images):
        variables = initial.variables(model, jax.random.key(1), images)
        return [model.apply(variables, images, method=name) for name in ("__call__", "outputs", "features")]

    called, outputs, features = outcomes(images)
    assert model.num_blocks == 7 and len(outputs) == len(features) == 4
    for encoded, grid in zip(outputs, features, strict=True):
        np.testing.assert_array_equal(encoded.tokens, grid)
        assert encoded.prefix.shape == (2, 0, grid.shape[-1])
    np.testing.assert_allclose(outputs[-1].tokens, called.tokens, atol=1e-6)


@pytest.mark.exhaustive
@pytest.mark.slow
def test_a_classifier_shows_what_its_head_sees():
    model = Classifier(create_model("swin_t", **TINY), 3)
    images = jax.random.normal(jax.random.key(0), (2, 32, 32, 3))

    @jax.jit
    def outcomes(images):
        variables = initial.variables(model, jax.random.key(1), images)
        pooled = model.apply(variables, images, method="pooled")
        return variables["params"]["head"], pooled, model.apply(variables, images)

    head, pooled, logits = outcomes(images)
    assert pooled.shape == (2, 64) and pooled.dtype == jnp.float32
    np.testing.assert_allclose(pooled @ head["kernel"] + head["bias"], logits, atol=1e-6)
