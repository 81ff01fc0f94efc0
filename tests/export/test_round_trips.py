"""Models go out and back through every format of their family to the bit, for images of any shape."""

import json

import jax
import numpy as np
import pytest

from fastmim_jax.config import finetune_config, pretrain_config
from fastmim_jax.errors import FormatMismatch, UserError
from fastmim_jax.export import model_folder
from fastmim_jax.export.bundle import ModelBundle
from fastmim_jax.export.convert import Options, convert, open_source
from fastmim_jax.export.files.array_files import write_safetensors
from fastmim_jax.export.formats import LIBRARIES
from fastmim_jax.export.formats.grids import GridHints, restore_grids
from fastmim_jax.export.formats.names import flatten_variables, unflatten_variables
from fastmim_jax.export.from_torch import from_torch
from fastmim_jax.export.to_torch import dump_settings, formats_for, to_torch
from fastmim_jax.export.verify import verify
from helpers.sweeps import sweep

SMALL = {
    "vit": dict(name="vit_b16", patch_size=8, width=16, depth=1, heads=2, positions="learned"),
    "swin": dict(name="swin_t", width=8, depths=(1, 1, 1, 1), heads=(1, 1, 2, 2)),
    "mixmim": dict(name="mixmim_b", width=8, depths=(1, 1, 1, 1), heads=(1, 1, 2, 2)),
    "pvt_v2": dict(name="pvt_v2_b0", widths=(8, 8, 16, 16), depths=(1, 1, 1, 1), heads=(1, 1, 2, 2)),
    "cmt": dict(name="cmt_s", stem_width=8, widths=(8, 8, 16, 16), depths=(1, 1, 1, 1), heads=(1, 1, 2, 2)),
    "convnext": dict(name="convnext_t", widths=(8, 8, 16, 16), depths=(1, 1, 1, 1)),
}
SIZES = ((64, 64), (64, 128))
CASES = [
    *((family, size, {}) for family in SMALL for size in SIZES),
    ("vit", (48, 96), {"class_token": False}),
    ("vit", (48, 48), {"class_token": False}),
    ("vit", (16, 64), {}),  # 2 x 8 positions: a square number
]
KEPT = [case for case in CASES if case[1] == SIZES[1] and not case[2]]


def model(family, size, others, classes=()):
    """A small backbone or classifier with random values."""
    config = finetune_config()
    known = {key: x for key, x in SMALL[family].items() if key in config.model.backbone}
    config.model.backbone.update({**known, **others})
    with config.model.backbone.unlocked():
        config.model.backbone.update(SMALL[family] | others)
    config.model.dtype = "float32"
    config.data.image_size = size
    return with_random_values(ModelBundle(config, {}, classes))


def with_random_values(bundle):
    random = np.random.default_rng(0)
    shapes = flatten_variables(jax.tree.map(lambda x: np.zeros(x.shape, np.float32), bundle.shapes()))
    values = {path: random.standard_normal(x.shape).astype(np.float32) for path, x in shapes.items()}
    return bundle._replace(variables=unflatten_variables(values))


def check_equal(bundle, other):
    assert other.image_shape == bundle.image_shape
    ours, theirs = flatten_variables(bundle.variables), flatten_variables(other.variables)
    assert ours.keys() == theirs.keys()
    for path, x in ours.items():
        np.testing.assert_array_equal(theirs[path], x, err_msg=path)


@pytest.mark.slow
@pytest.mark.parametrize(("family", "size", "others"), sweep(CASES, KEPT))
def test_every_format_of_a_family(family, size, others, tmp_path):
    bundle = model(family, size, others)
    for library in LIBRARIES:
        for fmt in formats_for(bundle, library):
            if fmt.kind != "classifier" or fmt.name.startswith(("simmim", "timm_beit")):
                continue  # other methods, and models with relative positions
            if library == "official" and fmt.name != formats_for(bundle, library)[0].name:
                continue
            try:
                arrays = to_torch(bundle, library, fmt.name)
            except UserError:  # of classifiers with another norm
                assert len(formats_for(bundle, library)) > 1
                continue
            path = tmp_path / f"{fmt.name}.safetensors"
            write_safetensors(path, arrays.state, dump_settings(bundle))
            back, report = open_source(path, Options(format=fmt.name))
            check_equal(bundle, back)
            assert not report.load.assumptions and not report.load.missing


METHODS = {
    "fastmim": ("vit", "swin", "pvt_v2", "cmt", "convnext"),
    "mae": ("vit",),
    "simmim": ("vit", "swin"),
    "mixmim": ("mixmim",),
}
METHOD_CASES = [
    *((name, family, size, True) for name in METHODS for family in METHODS[name] for size in SIZES),
    *((name, "vit", size, False) for name in ("fastmim", "mae") for size in SIZES),
]
KEPT = [
    ("fastmim", "cmt", SIZES[1], True),
    ("mae", "vit", SIZES[1], False),
    ("simmim", "swin", SIZES[1], True),
    ("mixmim", "mixmim", SIZES[1], True),
]


def method_model(name, family, size, class_token):
    """A small pre-training method with random values."""
    config = pretrain_config()
    config.method.update(name=name, target="hog" if name == "fastmim" else "pixel", dtype="float32")
    with config.method.backbone.unlocked():
        config.method.backbone.update(SMALL[family] | ({} if class_token else {"class_token": False}))
    config.method.decoder.update(width=16, depth=1, heads=2)
    config.method.block_size = 8 if family == "vit" else 32
    config.data.image_size = size
    return with_random_values(ModelBundle(config, {}))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "family", "size", "class_token"), sweep(METHOD_CASES, KEPT))
def test_every_format_of_a_method(name, family, size, class_token, tmp_path):
    bundle = method_model(name, family, size, class_token)
    if (name, family) == ("simmim", "vit"):  # published without biases of keys, which change no output
        bundle.variables["params"]["encoder"]["blocks"]["0"]["attn"]["qkv"]["bias"][16:32] = 0
    formats = [(x, library) for library in LIBRARIES for x in formats_for(bundle, library)]
    formats = [(fmt, library) for fmt, library in formats if fmt.kind == bundle.kind]
    assert formats
    for fmt, library in formats:
        arrays, path = to_torch(bundle, library, fmt.name), tmp_path / f"{fmt.name}.safetensors"
        write_safetensors(path, arrays.state, dump_settings(bundle))
        check_equal(bundle, open_source(path, Options(format=fmt.name))[0])
        assert not arrays.dropped


@pytest.mark.parametrize("classes", [(), ("cat", "dog")])
def test_a_folder_of_ours_is_read_by_its_own_notes(tmp_path, classes):
    bundle = model("vit", (48, 96), {"class_token": False}, classes)
    arrays = to_torch(bundle, "timm")
    model_folder.write_folder(bundle, arrays, tmp_path / "timm", tmp_path / "timm")
    back, report = open_source(tmp_path / "timm")
    check_equal(bundle, back)
    assert back.classes == classes and back.pooling == bundle.pooling and not report.load.assumptions
    arguments = json.loads((tmp_path / "timm" / "config.json").read_text())
    assert arguments["model_args"]["class_token"] is False and arguments["global_pool"] == "avg"


def foreign(size, others=None):
    return to_torch(model("vit", size, others or {}), "timm").state


@pytest.mark.slow
def test_the_image_size_can_be_set():
    state, heads = foreign((16, 64)), "model.backbone.heads=2"
    square, report = from_torch(state, overrides=[heads])
    assert square.image_shape == (32, 32, 3)
    (assumption,) = report.assumptions
    assert str(assumption).startswith("image size 32 x 32, a square grid: the arrays do not determine it")
    back, report = from_torch(state, overrides=[heads, "data.image_size=(16,64)"])
    check_equal(model("vit", (16, 64), {}), back)
    assert not report.assumptions
    with pytest.raises(FormatMismatch, match="17 positions are not those of 16 x 32 pixels, 2 x 4 cells"):
        from_torch(state, overrides=[heads, "data.image_size=(16,32)"])
    with pytest.raises(FormatMismatch, match="'pos_embed' does not fit: 72 positions make no square: type"):
        from_torch(foreign((48, 96)), overrides=[heads])


def test_sine_cosine_tables_tell_their_grid():
    state = to_torch(model("vit", (48, 96), {"positions": "fixed"}), "official").state
    back, report = from_torch(state, overrides=["model.backbone.heads=2"])
    assert back.image_shape == (48, 96, 3)
    assert [x.key for x in report.assumptions] == ["data.image_size"]


def test_entries_of_patches_only_get_one_of_cls():
    """As in DeiT III, also for images that are not square."""
    for size in ((48, 96), (48, 48)):
        state = foreign(size)
        state["pos_embed"] = state["pos_embed"][:, 1:]
        back, _ = from_torch(state, overrides=["model.backbone.heads=2", f"data.image_size={size}"])
        position = back.variables["params"]["encoder"]["position"]
        assert position["pos_embed"].shape[:2] == (size[0] // 8, size[1] // 8)
        assert not position["pos_embed_cls"].any()


def test_windows_that_are_not_square_are_found_by_the_image_size():
    table = {"encoder/stages_3/blocks/0/attn/relative_position_bias_table": np.zeros((3 * 7, 2))}
    (fmt,) = (x for x in LIBRARIES["official"].formats if x.name == "swin_classifier")
    (found,) = restore_grids(table, fmt, GridHints((64, 128)), {}).values()
    assert found.shape == (3, 7, 2)
    with pytest.raises(FormatMismatch, match="no window in 2 x 3 cells"):
        restore_grids(table, fmt, GridHints((64, 96)), {})
    with pytest.raises(FormatMismatch, match="make no square"):
        restore_grids(table, fmt, GridHints(), {})


@pytest.mark.slow
@pytest.mark.parametrize("class_token", [True, False])
def test_verify_agrees_at_a_size_that_is_not_square(tmp_path, class_token, one_device):
    bundle = model("vit", (48, 96), {"class_token": class_token})
    source = tmp_path / "ours.safetensors"
    write_safetensors(source, to_torch(bundle, "official").state, dump_settings(bundle))
    for name, to in (("timm", "timm"), ("timm.safetensors", "timm"), ("mm.safetensors", "mmpretrain")):
        convert(source, tmp_path / name, Options(to=to), log=lambda text: None)
        assert verify(source, tmp_path / name, log=lambda text: None)
