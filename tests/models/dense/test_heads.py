"""Dense heads equal the published ones, written here in PyTorch, on the same random weights."""

import importlib
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from fastmim_jax.models.dense.heads import FCN, SemanticFPN, UPerNet
from fastmim_jax.models.dense.layers import adaptive_pool, resize_bilinear
from fastmim_jax.models.dense.segmenter import SegmentationLogits, Segmenter, ViTNeck, quarter_layers
from fastmim_jax.models.zoo import create_model
from helpers.sweeps import sweep

WIDTHS, SIDES, CLASSES, CHANNELS = (4, 6, 8, 10), ((12, 20), (6, 10), (3, 5), (2, 3)), 5, 8


def random_grids(seed=0, widths=WIDTHS):
    rng = np.random.default_rng(seed)
    pairs = zip(widths, SIDES, strict=True)
    return [rng.normal(size=(2, *sides, width)).astype(np.float32) for width, sides in pairs]


def relative(found, expected):
    """The largest difference, relative to the largest expected value."""
    return np.abs(np.asarray(found) - expected).max() / max(np.abs(expected).max(), 1e-6)


@pytest.fixture(scope="module")
def published_dense():
    """The PyTorch modules; importing them takes two seconds."""
    pytest.importorskip("torch")
    return importlib.import_module("helpers.published_dense")


def published(kind, published_dense):
    """-> (module, PyTorch module, grids), with widths that the neck keeps."""
    torch_of = {
        "upernet": lambda: published_dense.UPerHead(WIDTHS, CHANNELS, CLASSES),
        "fpn": lambda: published_dense.SemanticFPN(WIDTHS, CHANNELS, CLASSES),
        "fcn": lambda: published_dense.FCNHead(WIDTHS[2], CHANNELS, CLASSES),
        "neck": lambda: published_dense.Neck(6),
    }
    ours = {
        "upernet": UPerNet(CLASSES, CHANNELS),
        "fpn": SemanticFPN(CLASSES, CHANNELS),
        "fcn": FCN(CLASSES, CHANNELS),
        "neck": ViTNeck(16),
    }
    grids = random_grids()
    inputs = {"fcn": grids[2], "neck": [grids[1][..., :6]] * 4}.get(kind, grids)
    return ours[kind], torch_of[kind](), inputs


@pytest.mark.slow
@pytest.mark.torch
@pytest.mark.parametrize("kind", ["upernet", "fpn", "fcn", "neck"])
def test_forward_and_gradients_equal_the_published_module(kind, published_dense):
    """In evaluation, by the running statistics, and in training, by those of the batch."""
    module, reference, inputs = published(kind, published_dense)
    published_dense.randomize(reference)
    params, stats = published_dense.to_flax(reference)
    shapes = jax.eval_shape(module.init, jax.random.key(0), inputs)
    assert jax.tree.map(jnp.shape, dict(shapes["params"])) == jax.tree.map(np.shape, params)

    def loss(params, inputs, stats, mutable):
        out = module.apply({"params": params, "batch_stats": stats}, inputs, mutable=mutable)
        out, after = out if mutable else (out, {})
        outputs = jax.tree.leaves(out)
        return sum(jnp.sin(x + i).sum() for i, x in enumerate(outputs)), (outputs, after)

    for training in (False, True):  # training changes the running statistics
        mutable = ["batch_stats"] if training else False
        value_and_grad = jax.jit(jax.value_and_grad(partial(loss, mutable=mutable), (0, 1), has_aux=True))
        (_, (outputs, after)), (of_params, of_inputs) = value_and_grad(params, inputs, stats)
        expected = published_dense.run(reference, inputs, training)
        for found, out in zip(outputs, expected.outputs, strict=True):
            assert relative(found, out) < 1e-5
        for found, gradient in zip(jax.tree.leaves(of_inputs), expected.input_gradients, strict=True):
            assert relative(found, gradient) < 1e-4
        theirs = flatten_dict(expected.gradients, sep="/")
        ours = flatten_dict(of_params, sep="/")
        largest = max(np.abs(x).max() for x in theirs.values())
        for name, gradient in theirs.items():
            assert np.abs(ours[name] - gradient).max() < 1e-4 * largest, name
        if training and stats:
            found, running = flatten_dict(after["batch_stats"]), flatten_dict(expected.stats)
            for name, value in running.items():
                np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.torch
def test_resizing_and_pooling_equal_pytorch():
    torch = pytest.importorskip("torch")
    x = random_grids()[1]
    first = torch.from_numpy(x.transpose(0, 3, 1, 2))
    for size in ((12, 20), (7, 13), (3, 4), (6, 10)):
        expected = torch.nn.functional.interpolate(first, size, mode="bilinear", align_corners=False)
        np.testing.assert_allclose(
            resize_bilinear(x, size), expected.numpy().transpose(0, 2, 3, 1), atol=1e-5
        )
    for cells in (1, 2, 3, 6, 8):
        expected = torch.nn.functional.adaptive_avg_pool2d(first, cells)
        np.testing.assert_allclose(
            adaptive_pool(x, cells), expected.numpy().transpose(0, 2, 3, 1), atol=1e-5
        )


def parameters(name, **options):
    """-> {"encoder": number of parameters, ...} of a segmenter of 150 classes; nothing is computed."""
    model = Segmenter(create_model(name), 150, **options)
    images = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)["params"]
    return {part: sum(x.size for x in jax.tree.leaves(tree)) for part, tree in shapes.items()}


# Millions of parameters of UPerNet with the auxiliary head, in table 3 of Swin (arXiv 2103.14030) and
# table 3 of ConvNeXt (arXiv 2201.03545).
PUBLISHED = {"swin_b": 121, "convnext_t": 60}


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_models_have_as_many_parameters_as_published(name):
    assert round(sum(parameters(name).values()) / 1e6) == PUBLISHED[name]


@pytest.mark.slow
@pytest.mark.torch
@pytest.mark.parametrize(
    "name, options, widths, channels",
    [
        ("swin_b", {}, (128, 256, 512, 1024), 512),
        ("vit_b16", dict(channels=768, auxiliary_input=4, layers=(2, 4, 10, 12)), (768,) * 4, 768),
    ],
)
def test_heads_have_as_many_parameters_as_the_published_ones(
    published_dense, name, options, widths, channels
):
    ours = parameters(name, **options)
    count = published_dense.count_parameters
    assert ours["segmentation"] == count(published_dense.UPerHead(widths, channels, 150))
    auxiliary = widths[options.get("auxiliary_input", 3) - 1]
    assert ours["auxiliary"] == count(published_dense.FCNHead(auxiliary, 256, 150))
    if name == "vit_b16":
        assert ours["neck"] == count(published_dense.Neck(768))


TINY = {
    "vit_ti16": dict(width=16, depth=2, heads=2),
    "vit_ti8": dict(width=16, depth=3, heads=2),
    "vit_ti4": dict(width=16, depth=5, heads=2),
    "swin_t": dict(width=8, depths=(1, 1, 1, 1), heads=(1, 1, 1, 1)),
    "mixmim_b": dict(width=8, depths=(1, 1, 1, 1), heads=(1, 1, 1, 1)),
    "pvt_v2_b0": dict(widths=(8, 8, 16, 16), depths=(1, 1, 1, 1), heads=(1, 1, 1, 1)),
    "cmt_s": dict(widths=(8, 8, 16, 16), depths=(1, 1, 1, 1), heads=(1, 1, 1, 1)),
    "convnext_t": dict(widths=(8, 8, 16, 16), depths=(1, 1, 1, 1)),
}


HEADS = [*((name, "upernet") for name in TINY), ("swin_t", "fpn")]


@pytest.mark.parametrize(
    "name, head", sweep(HEADS, [("vit_ti16", "upernet"), ("swin_t", "fpn")], pytest.mark.slow)
)
def test_every_backbone_gives_four_grids_and_logits_on_cells_of_four_pixels(name, head):
    model = Segmenter(create_model(name, **TINY[name]), 3, head=head, channels=8, auxiliary_channels=4)
    images = jax.ShapeDtypeStruct((2, 64, 96, 3), jnp.float32)

    logits, variables = jax.eval_shape(model.init_with_output, jax.random.key(0), images)
    assert isinstance(logits, SegmentationLogits) and logits.main.dtype == jnp.float32
    assert logits.main.shape == (2, 16, 24, 3) and logits.auxiliary.shape == (2, 4, 6, 3)
    assert {"encoder", "segmentation", "auxiliary"} <= set(variables["params"])
    assert ("neck" in variables["params"]) == (name in ("vit_ti16", "vit_ti8"))
    norms = [part for part in variables["params"] if part.startswith("stage_norm")]
    assert len(norms) == (3 if name in ("swin_t", "mixmim_b", "convnext_t") else 0)


def test_layers_of_a_vit():
    assert quarter_layers(12) == (3, 6, 9, 12) and quarter_layers(2) == (1, 1, 2, 2)
    assert quarter_layers(24) == (6, 12, 18, 24)


@pytest.mark.slow
def test_channels_drop_whole_in_training_alone():
    module, x = FCN(CLASSES, CHANNELS, dropout=0.5), random_grids()[2]
    variables = module.init(jax.random.key(0), x)
    still = module.apply(variables, x)
    np.testing.assert_array_equal(still, module.apply(variables, x))
    dropped = module.apply(variables, x, rngs={"dropout": jax.random.key(1)})
    assert np.abs(np.asarray(dropped) - still).max() > 1e-4
