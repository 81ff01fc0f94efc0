"""torchvision's ViT, Swin and ConvNeXt against ours: the same arrays give the same outputs."""

import json
from importlib.util import find_spec
from typing import NamedTuple

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from fastmim_jax.errors import UserError
from fastmim_jax.export.extras import import_torch
from fastmim_jax.export.formats import FORMATS
from fastmim_jax.export.formats.library import ModelSpec
from fastmim_jax.export.formats.names import to_ours, to_theirs
from fastmim_jax.export.formats.torchvision.describe import describe
from fastmim_jax.export.formats.torchvision.reference import (
    build_reference,
    models_module,
    reference_outputs,
)
from fastmim_jax.models.convnext import ConvNeXt
from fastmim_jax.models.heads import Classifier
from fastmim_jax.models.swin import Swin
from fastmim_jax.models.vit import ViT
from fastmim_jax.models.zoo import create_model

pytestmark = [pytest.mark.slow, pytest.mark.torch]

with_torch = pytest.mark.skipif(
    not (find_spec("torch") and find_spec("torchvision")),
    reason="needs the torch extra: pip install '.[torch]'",
)
# Both compute in float32 but sum in different orders, over some ten layers with large random weights.
TOLERANCE = 1e-4  # of the largest absolute value
CLASSES = tuple("abcde")


class Case(NamedTuple):
    """A tiny classifier of ours, and its format."""

    encoder: object
    pooling: str
    size: tuple[int, int]
    format: str


CASES = {
    "vit": Case(
        ViT(patch_size=8, width=24, depth=3, heads=3, mlp_ratio=3.0, positions="learned"),
        "cls",
        (32, 32),
        "torchvision_vit",
    ),
    "swin": Case(
        Swin(width=8, depths=(1, 2, 2, 2), heads=(1, 2, 2, 4), window=2, mlp_ratio=2.0),
        "pool",
        (64, 128),  # the last windows are shifted along one side only
        "torchvision_swin",
    ),
    "convnext": Case(
        ConvNeXt(widths=(8, 16, 24, 32), depths=(1, 2, 1, 1)),
        "pool_norm",
        (64, 32),
        "torchvision_convnext",
    ),
}


def random(shapes, seed):
    """Random arrays that all affect the outputs: weights of unit gain, scales around one."""
    rng = np.random.default_rng(seed)

    def draw(path, shape):
        x = rng.normal(size=shape.shape).astype(np.float32)
        if path.endswith(("scale", "gamma")):
            return 1 + 0.3 * x
        fan_in = np.prod(shape.shape[:-1]) if path.endswith("kernel") else 4
        return x / np.float32(np.sqrt(fan_in))

    return unflatten_dict(
        {path: draw(path, shape) for path, shape in flatten_dict(shapes, sep="/").items()}, sep="/"
    )


def images_of(case):
    return np.random.default_rng(1).normal(size=(2, *case.size, 3)).astype(np.float32)


def model_of(case):
    return Classifier(case.encoder, len(CLASSES), case.pooling)


def ours_of(case, module):
    shapes = jax.eval_shape(module.init, jax.random.key(0), images_of(case))
    return random(shapes, seed=0)


def layers_of(encoder, variables, case):
    """{name: tokens, and "cls"} of a backbone; its last layer normed where the variables have that norm."""

    def run(variables, images):
        if "norm" in variables["params"]:
            return encoder.apply(variables, images, method="outputs")
        grids = encoder.apply(variables, images, method=lambda m, x: m._stage_outputs(m.embed(x)))
        return [(x, x[:, :0, 0]) for x in grids]

    outputs = jax.jit(run)(variables, images_of(case))
    found = {name: tokens for name, (tokens, _) in zip(encoder.layer_names, outputs, strict=True)}
    cls = outputs[-1][1]
    return {**found, "cls": cls[:, 0]} if cls.shape[1] else found


def expected_of(case, variables):
    """The same layers as `reference_outputs`, by our classifier."""
    encoder = {"params": variables["params"]["encoder"]}
    logits = jax.jit(model_of(case).apply)(variables, images_of(case))
    return {**layers_of(case.encoder, encoder, case), "logits": logits}


def assert_close(found, expected):
    assert set(found) == set(expected)
    for name, value in expected.items():
        value = np.asarray(value)
        atol = TOLERANCE * np.abs(value).max()
        np.testing.assert_allclose(found[name], value, rtol=0, atol=atol, err_msg=name)


def complete(variables, case):
    """The complete state dict, with buffers."""
    state = to_theirs(variables, case.format)
    for buffers in FORMATS[case.format].buffers:
        state |= buffers(state, case.size)
    return state


def described(case, classes=CLASSES):
    description = describe(ModelSpec(case.encoder, case.size, pooling=case.pooling, classes=classes))
    return json.loads(json.dumps(description))  # as it comes from a file


@with_torch
@pytest.mark.parametrize("name", CASES)
def test_ours_in_torchvision(name):
    case = CASES[name]
    variables = ours_of(case, model_of(case))
    model = build_reference(described(case), complete(variables, case))
    assert_close(reference_outputs(model, images_of(case)), expected_of(case, variables))
    state = {key: x.numpy() for key, x in model.state_dict().items()}
    jax.tree.map(np.testing.assert_array_equal, to_ours(state, case.format), variables)


@with_torch
@pytest.mark.parametrize("name", CASES)
def test_torchvision_in_ours(name):
    case = CASES[name]
    model = build_reference(described(case))
    buffers = {key for key, _ in model.named_buffers()}
    shapes = {key: x for key, x in model.state_dict().items() if key not in buffers}
    rng = np.random.default_rng(2)
    drawn = {key: rng.normal(size=tuple(x.shape)).astype(np.float32) / 3 for key, x in shapes.items()}
    buffered = {key: x.numpy() for key, x in model.state_dict().items() if key in buffers}
    model = build_reference(described(case), {**drawn, **buffered})
    variables = to_ours({**drawn, **buffered}, case.format)
    assert_close(reference_outputs(model, images_of(case)), expected_of(case, variables))
    back = complete(variables, case)
    assert set(back) == {*drawn, *buffered}
    for key, x in {**drawn, **buffered}.items():
        np.testing.assert_array_equal(back[key], x, err_msg=key)


@with_torch
@pytest.mark.parametrize("name", CASES)
def test_a_backbone_without_a_head(name):
    case = CASES[name]
    variables = ours_of(case, case.encoder)
    inside = {"params": {"encoder": variables["params"]}}
    model = build_reference(described(case, classes=()), complete(inside, case))
    assert_close(reference_outputs(model, images_of(case)), layers_of(case.encoder, variables, case))
    back = case.format + "_backbone" if name == "convnext" else case.format
    jax.tree.map(np.testing.assert_array_equal, to_ours(to_theirs(inside, case.format), back), inside)


@with_torch
def test_loading_is_strict():
    case = CASES["convnext"]
    state = complete(ours_of(case, model_of(case)), case)
    short = {key: x for key, x in state.items() if key != "classifier.2.bias"}
    with pytest.raises(UserError, match="torchvision's ConvNeXt: classifier.2.bias missing"):
        build_reference(described(case), short)
    with pytest.raises(UserError, match="surplus unexpected"):
        build_reference(described(case), {**state, "surplus": np.zeros(1)})
    with pytest.raises(UserError, match="classifier.2.bias of another shape"):
        build_reference(described(case), {**state, "classifier.2.bias": np.zeros(1)})


@with_torch
@pytest.mark.parametrize(
    "ours, builder",
    [
        ("vit_h14", "vit_h_14"),
        ("vit_l16", "vit_l_16"),
        ("swin_s", "swin_s"),
        ("convnext_b", "convnext_base"),
    ],
)
def test_the_named_builder_makes_the_same_names_and_shapes(ours, builder):
    torch, models = import_torch(), models_module()
    encoder = create_model(ours)
    encoder = encoder.clone(positions="learned") if ours.startswith("vit") else encoder
    pooling = {"vit": "cls", "swi": "pool", "con": "pool_norm"}[ours[:3]]
    description = describe(
        ModelSpec(encoder, (224, 224), pooling=pooling, classes=tuple(map(str, range(1000))))
    )
    assert description["builder"] == builder
    with torch.device("meta"):  # nothing is computed or stored
        named, built = getattr(models, builder)().state_dict(), build_reference(description).state_dict()
    assert {key: x.shape for key, x in named.items()} == {key: x.shape for key, x in built.items()}


def refused(encoder, size=(64, 64), **options):
    with pytest.raises(UserError) as caught:
        describe(ModelSpec(encoder, size, **options))
    assert str(caught.value).startswith("torchvision has") and "--to=timm" in str(caught.value)
    return str(caught.value)


def test_unsupported_models_are_refused():
    vit, swin, convnext = (case.encoder for case in CASES.values())
    assert "pvt_v2" in refused(create_model("pvt_v2_b2"))
    assert "not of 4" in refused(vit, channels=4)
    assert "32 x 64" in refused(vit, (32, 64))
    assert "without position embeddings" in refused(vit.clone(positions="none"))
    assert "relative positions" in refused(vit.clone(relative_positions="own"))
    assert "LayerScale" in refused(vit.clone(layer_scale=0.1))
    assert "classifies by 'pool_norm'" in refused(vit, classes=CLASSES)
    assert "2, 2, 2, 1" in refused(swin, (32, 32))
    assert "2 x 4 tokens" in refused(swin.clone(window=(2, 4)), (64, 128))
    assert "position embeddings" in refused(swin.clone(positions="learned"))
    assert "epsilon of 1e-05" in refused(convnext.clone(epsilon=1e-5))
    assert "classifies by 'norm_pool'" in refused(convnext, classes=CLASSES, pooling="norm_pool")
