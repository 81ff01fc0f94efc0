"""timm's models against ours: the same arrays give the same outputs in both directions."""

import json
import math
from contextlib import nullcontext
from functools import cache
from importlib.util import find_spec
from typing import NamedTuple

import flax.linen as nn
import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from fastmim_jax.errors import UserError
from fastmim_jax.export.extras import import_timm
from fastmim_jax.export.formats.library import ModelSpec
from fastmim_jax.export.formats.names import to_ours, to_theirs, unknown_names
from fastmim_jax.export.formats.timm.describe import describe, format_name, load_call
from fastmim_jax.export.formats.timm.reference import build_reference, reference_outputs
from fastmim_jax.models.convnext import ConvNeXt
from fastmim_jax.models.heads import POOLINGS, Classifier
from fastmim_jax.models.positions import resampled_positions
from fastmim_jax.models.pvt_v2 import PVTv2
from fastmim_jax.models.pyramid import Pyramid
from fastmim_jax.models.swin import Swin
from fastmim_jax.models.vit import ViT
from fastmim_jax.models.zoo import create_model
from helpers.sweeps import sweep

pytestmark = [
    pytest.mark.slow,
    pytest.mark.torch,
    pytest.mark.skipif(
        not (find_spec("torch") and find_spec("timm")),
        reason="needs the torch extra: pip install '.[torch]'",
    ),
]
CLASSES = tuple("abcde")
# Both sides compute in float32 and sum in different orders: up to 2e-6 of the largest value is observed.
# Masked attention has a score of -100 in timm's Swin, whose weight is negligible.
TOLERANCE = 1e-5


class Case(NamedTuple):
    """The same model on both sides: ours, and timm's model and arguments."""

    encoder: nn.Module
    size: tuple
    pooling: str
    theirs: str
    arguments: dict


VIT = dict(patch_size=8, width=96, depth=3, heads=3, positions="learned")
TIMM_VIT = dict(img_size=32, patch_size=8, embed_dim=96, depth=3, num_heads=3)
SWIN = dict(width=16, depths=(1, 2, 2, 2), heads=(1, 2, 2, 4))
TIMM_SWIN = dict(embed_dim=16, depths=(1, 2, 2, 2), num_heads=(1, 2, 2, 4))
PYRAMID = dict(widths=(8, 16, 24, 32), depths=(1, 2, 1, 2))
PVT = dict(PYRAMID, heads=(1, 2, 3, 4), mlp_ratios=(2, 2, 3, 2))
TIMM_PVT = dict(embed_dims=(8, 16, 24, 32), depths=(1, 2, 1, 2), num_heads=(1, 2, 3, 4))
TIMM_PVT["mlp_ratios"] = (2, 2, 3, 2)
TIMM_CONVNEXT = dict(dims=(8, 16, 24, 32), depths=(1, 2, 1, 2))
SCALED = dict(init_values=0.1, mlp_ratio=3.0)
SHARED = dict(use_rel_pos_bias=False, use_shared_rel_pos_bias=True, use_abs_pos_emb=True, init_values=0.0)
NORM_FIRST = dict(TIMM_CONVNEXT, head_norm_first=True, norm_eps=1e-5)


def vit(pooling, ours, **theirs):
    return Case(ViT(**{**VIT, **ours}), (32, 32), pooling, "vit_base_patch16_224", {**TIMM_VIT, **theirs})


def beit(pooling, ours, **theirs):
    theirs = {**TIMM_VIT, **theirs}
    return Case(ViT(**{**VIT, **ours}), (32, 32), pooling, "beit_base_patch16_224", theirs)


def swin(side, window):
    theirs = dict(TIMM_SWIN, img_size=side, window_size=window)
    return Case(Swin(**SWIN), (side, side), "pool", "swin_tiny_patch4_window7_224", theirs)


CASES = {
    "vit, cls": vit("cls", {}),
    "vit, mean": vit("pool_norm", dict(layer_scale=0.1, mlp_ratio=3.0), global_pool="avg", **SCALED),
    "vit, norm before mean": vit("pool", {}, global_pool="avg", fc_norm=False),
    "vit, no positions": vit("cls", dict(positions="none"), pos_embed="none"),
    "beit": beit("pool_norm", dict(positions="none", relative_positions="own", layer_scale=0.1)),
    "beit, shared": beit("cls", dict(relative_positions="shared"), global_pool="token", **SHARED),
    "swin, 224 by 7": swin(224, 7),
    "swin, 192 by 6": swin(192, 6),
    "swin, 128 by 4": swin(128, 4),
    "swin, 64 by 4": swin(64, 4),  # a last grid of 2 x 2, which makes a smaller window and table
    "pvt_v2": Case(PVTv2(**PVT), (64, 64), "pool", "pvt_v2_b2", TIMM_PVT),
    "pvt_v2, linear": Case(PVTv2(attention="pooled", **PVT), (64, 64), "pool", "pvt_v2_b2_li", TIMM_PVT),
    "convnext": Case(ConvNeXt(**PYRAMID), (64, 64), "pool_norm", "convnext_tiny", TIMM_CONVNEXT),
    "convnext, norm before mean": Case(
        ConvNeXt(epsilon=1e-5, **PYRAMID), (64, 64), "pool", "convnext_tiny", NORM_FIRST
    ),
}
# Swin's smallest case has two windows and tables.
KEPT = [name for name in CASES if name not in ("swin, 224 by 7", "swin, 192 by 6", "swin, 128 by 4")]
REAL = {
    "vit_b16": ("vit_base_patch16_224", "cls", dict(positions="learned")),
    "swin_b": ("swin_base_patch4_window7_224", "pool", {}),
    "pvt_v2_b2": ("pvt_v2_b2", "pool", {}),
    "convnext_t": ("convnext_tiny", "pool_norm", {}),
}


def random_like(shapes, seed=0):
    """{name: shape} of either side -> random arrays that all affect the outputs: none is constant."""
    random = np.random.default_rng(seed)

    def draw(name, shape):
        last = name.replace("/", ".").split(".")[-1]
        if last in ("scale", "gamma", "gamma_1", "gamma_2") or (last == "weight" and len(shape) == 1):
            return random.uniform(0.5, 1.5, shape).astype(np.float32)
        x = random.standard_normal(shape, np.float32)
        if last in ("kernel", "weight"):
            return x / np.float32(math.sqrt(math.prod(shape[:-1] if last == "kernel" else shape[1:])))
        return x / 4

    return {name: draw(name, shape) for name, shape in shapes.items()}


def shapes_of(arrays):
    return {name: tuple(x.shape) for name, x in arrays.items()}


def numpy_state(model):
    return {name: x.numpy() for name, x in model.state_dict().items()}


def random_images(size, channels=3):
    return np.random.default_rng(7).normal(size=(1, *size, channels)).astype(np.float32)


def skip_norm(call, args, kwargs, context):
    """Leaves a backbone's last outputs as they are before its norm."""
    module = context.module
    of_backbone = module.name == "norm" and isinstance(module.parent, (ViT, Pyramid))
    return args[0] if of_backbone else call(*args, **kwargs)


@cache
def compiled(encoder, pooling, classes=CLASSES):
    """Ours: (variables, images) -> the same layers as `reference_outputs` of timm's model."""
    normed = POOLINGS[pooling].encoder_norm

    @jax.jit
    def outputs_of(variables, images):
        params = variables["params"]
        with nullcontext() if normed else nn.intercept_methods(skip_norm):
            outputs = encoder.apply({"params": params["encoder"]}, images, method="outputs")
        found = {name: out.tokens for name, out in zip(encoder.layer_names, outputs, strict=True)}
        if outputs[-1].prefix.shape[1]:
            found["cls"] = outputs[-1].prefix[:, 0]
        if classes:
            pooled = POOLINGS[pooling]().apply({"params": params.get("pooling", {})}, outputs[-1])
            found["logits"] = pooled @ params["head"]["kernel"] + params["head"]["bias"]
        return found

    return outputs_of


def our_variables(encoder, pooling, size, channels=3, seed=0):
    """Random variables, {"params": nested}."""
    images = jax.ShapeDtypeStruct((1, *size, channels), np.float32)
    shapes = jax.eval_shape(Classifier(encoder, len(CLASSES), pooling).init, jax.random.key(0), images)
    flat = random_like(shapes_of(flatten_dict(shapes["params"], sep="/")), seed)
    return {"params": unflatten_dict(flat, sep="/")}


def headless(variables):
    """The variables of the backbone alone."""
    return {"params": {"encoder": variables["params"]["encoder"]}}


def assert_same(theirs, ours):
    assert theirs.keys() == ours.keys()
    for name, x in theirs.items():
        expected = np.asarray(ours[name])
        assert x.shape == expected.shape, name
        assert np.abs(x - expected).max() <= TOLERANCE * np.abs(expected).max(), name


def check_from_timm(case, classes=CLASSES):
    """Convert random arrays of a timm model to ours, compare outputs, and convert back."""
    name = format_name(case.encoder)
    model = import_timm().create_model(case.theirs, num_classes=len(classes), **case.arguments).eval()
    state = random_like(shapes_of(model.state_dict()))
    model = load(model, state)
    ours = to_ours(state, name)
    images = random_images(case.size)
    assert_same(
        reference_outputs(model, images), compiled(case.encoder, case.pooling, classes)(ours, images)
    )
    back = to_theirs(ours, name)
    assert shapes_of(back) == shapes_of(state)
    for key, value in state.items():
        np.testing.assert_array_equal(back[key], value)
    described = describe(ModelSpec(case.encoder, case.size, pooling=case.pooling, classes=classes))
    assert shapes_of(build_reference(described).state_dict()) == shapes_of(state)


def load(model, state):
    import torch

    model.load_state_dict({name: torch.tensor(x) for name, x in state.items()})
    return model


def check_to_timm(encoder, size, pooling, classes=CLASSES):
    """Load random arrays of ours into the described timm model and compare outputs."""
    variables = our_variables(encoder, pooling, size, seed=1)
    described = describe(ModelSpec(encoder, size, pooling=pooling, classes=classes))
    model = build_reference(described, to_theirs(variables, format_name(encoder)))
    images = random_images(size)
    assert_same(reference_outputs(model, images), compiled(encoder, pooling, classes)(variables, images))
    return model, variables


@pytest.mark.parametrize("name", sweep(CASES, KEPT))
def test_timms_arrays_give_equal_outputs_in_ours_and_convert_back_exactly(name):
    check_from_timm(CASES[name])


@pytest.mark.parametrize("name", sweep(CASES, KEPT))
def test_our_arrays_give_equal_outputs_in_the_described_model(name):
    case = CASES[name]
    check_to_timm(case.encoder, case.size, case.pooling)


@pytest.mark.parametrize("name", sweep(REAL, ["convnext_t"]))
def test_real_sizes_both_ways(name):
    theirs, pooling, options = REAL[name]
    encoder = create_model(name, layers="scanned", **options)
    described = describe(ModelSpec(encoder, (224, 224), pooling=pooling, classes=CLASSES))
    assert (described["architecture"], described["model_args"]) == (theirs, {})
    model, variables = check_to_timm(encoder, (224, 224), pooling)
    back = to_ours(numpy_state(model), format_name(encoder))
    jax.tree.map(np.testing.assert_array_equal, back, variables)


def tabled(variables, encoder, size):
    """The variables with a table instead of fixed positions."""
    grid = [side // encoder.patch_size for side in size]
    table = resampled_positions(*grid, encoder.width)
    position = {"pos_embed": table, "pos_embed_cls": np.zeros((1, encoder.width), np.float32)}
    own = {**variables["params"]["encoder"], "position": position}
    return {"params": {**variables["params"], "encoder": own}}


BARE = {
    "vit": (ViT(**{**VIT, "positions": "fixed"}), (32, 48)),
    "swin": (Swin(**SWIN), (64, 96)),  # windows of 4 x 3 tokens, of 2 x 3 in the last stage
    "pvt_v2": (PVTv2(**PVT), (64, 96)),
    "convnext": (ConvNeXt(**PYRAMID), (64, 96)),
}


@pytest.mark.parametrize("family", sweep(BARE, ["vit", "swin"]))
def test_bare_backbones_of_non_square_images(family):
    encoder, size = BARE[family]
    pooling = "cls" if family == "vit" else "pool"  # poolings that leave the norm in the backbone
    variables = headless(our_variables(encoder, pooling, size))
    published = tabled(variables, encoder, size) if family == "vit" else variables
    described = describe(ModelSpec(encoder, size))
    model = build_reference(described, to_theirs(published, format_name(encoder)))
    images = random_images(size)
    assert_same(reference_outputs(model, images), compiled(encoder, pooling, ())(variables, images))


def test_a_window_shift_along_one_axis_is_as_in_timm():
    check_to_timm(Swin(window=(2, 8), **SWIN), (64, 128), "pool")


def test_a_classifier_without_its_head_keeps_its_norm():
    encoder = ViT(**VIT)
    variables = our_variables(encoder, "pool_norm", (32, 32))
    del variables["params"]["head"]
    described = describe(ModelSpec(encoder, (32, 32), pooling="pool_norm"))
    model = build_reference(described, to_theirs(variables, "timm_vit"))
    assert described["num_classes"] == 0 and "logits" not in reference_outputs(
        model, random_images((32, 32))
    )


FOLDERS = {
    "vit": (ViT(**VIT), (32, 48), "pool_norm", 1),
    "beit": (ViT(**{**VIT, "relative_positions": "own"}), (32, 32), "pool_norm", 3),
    "swin": (Swin(**SWIN), (64, 96), "pool", 3),
    "pvt_v2": (PVTv2(**PVT), (64, 96), "pool", 1),
    "convnext": (ConvNeXt(**PYRAMID), (96, 64), "pool_norm", 4),
}


@pytest.mark.parametrize("name", sweep(FOLDERS, ["vit", "swin"]))
def test_timm_opens_a_folder_and_a_file(name, tmp_path):
    from safetensors.numpy import save_file

    timm = import_timm()
    encoder, size, pooling, channels = FOLDERS[name]
    variables = our_variables(encoder, pooling, size, channels)
    described = describe(ModelSpec(encoder, size, channels, pooling, CLASSES))
    state = to_theirs(variables, format_name(encoder))
    path = tmp_path / "model.safetensors"
    save_file({key: np.ascontiguousarray(x) for key, x in state.items()}, path)
    (tmp_path / "config.json").write_text(json.dumps(described))
    images = random_images(size, channels)
    expected = compiled(encoder, pooling)(variables, images)
    opened = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    assert_same(reference_outputs(opened, images), expected)
    data = timm.data.resolve_model_data_config(opened)
    assert (data["input_size"], data["crop_pct"]) == ((channels, *size), 0.875)
    assert data["mean"] == described["pretrained_cfg"]["mean"] and len(data["mean"]) == channels
    typed = eval(load_call(described, path), {"timm": timm}).eval()
    assert_same(reference_outputs(typed, images), expected)


def test_supported_variants_are_read():
    """DeiT III has no position for cls; a small ConvNeXt has 1 x 1 convolutions for linear layers."""
    variants = {"vit, cls": dict(no_embed_class=True), "convnext": dict(conv_mlp=True)}
    for case, options in ((CASES[name], options) for name, options in variants.items()):
        arguments = {**case.arguments, **options}
        model = import_timm().create_model(case.theirs, num_classes=len(CLASSES), **arguments).eval()
        state = random_like(shapes_of(model.state_dict()))
        images, ours = random_images(case.size), to_ours(state, format_name(case.encoder))
        expected = compiled(case.encoder, case.pooling)(ours, images)
        assert_same(reference_outputs(load(model, state), images), expected)


@pytest.mark.parametrize(
    ("option", "name"),
    [
        ("qk_norm", "blocks.0.attn.q_norm.weight"),
        ("reg_tokens", "reg_token"),
        ("pre_norm", "norm_pre.weight"),
    ],
)
def test_unsupported_variants_have_unknown_names(option, name):
    case = CASES["vit, cls"]
    model = import_timm().create_model(case.theirs, **case.arguments, **{option: 1})
    assert name in unknown_names(model.state_dict(), "timm_vit")


def test_a_state_dict_of_another_model_is_refused():
    case = CASES["convnext"]
    described = describe(ModelSpec(case.encoder, case.size, pooling=case.pooling, classes=CLASSES))
    state = numpy_state(build_reference(described))
    state["surprise"] = state.pop("head.fc.bias")
    with pytest.raises(UserError, match="convnext_tiny: head.fc.bias missing; surprise unexpected; exp"):
        build_reference(described, state)
    del state["surprise"]
    state["head.fc.bias"] = np.zeros(len(CLASSES) + 1)
    with pytest.raises(UserError, match="convnext_tiny: head.fc.bias of another shape; expected"):
        build_reference(described, state)
