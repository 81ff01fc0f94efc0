"""Every published case comes in from a file, is the model that it was, and goes out again to the bit."""

import json
import re

import jax
import numpy as np
import pytest
import safetensors.numpy

from fastmim_jax.__main__ import main
from fastmim_jax.config import finetune_config, pretrain_config
from fastmim_jax.errors import UserError
from fastmim_jax.export.array_files import read_tensors
from fastmim_jax.export.bundle import ModelBundle, open_bundle
from fastmim_jax.export.convert import Options, convert, open_source
from fastmim_jax.export.formats import FORMATS
from fastmim_jax.export.formats.names import flatten_variables
from fastmim_jax.export.from_torch import from_torch
from fastmim_jax.export.infer_config import infer_config
from fastmim_jax.export.to_torch import to_torch
from fastmim_jax.train.inherit_backbone import inherit_backbone
from fastmim_jax.train.pretrain import pretrain
from fastmim_jax.train.runs import load_run
from helpers import published, small

FAMILIES = [
    *(f"fastmim_{name}" for name in small.BACKBONES),
    "mae_vit",
    "mixmim",
    "simmim_vit",
    "simmim_swin",
]
CASES = {family: published.load(family)[0] for family in FAMILIES}
CLASSIFIERS = published.load("classifiers")[0]
PRETRAINED = [(family, name) for family in FAMILIES for name in CASES[family] if name != "classifier"]
# One of every family that is hidden by noise, and a model without a decoder.
COMPUTED = [(family, next(iter(CASES[family]))) for family in FAMILIES if "simmim" not in family]
COMPUTED += [("fastmim_vit", "hog_nodec")]
BUFFERS = (
    "pos_embed",
    "absolute_pos_embed",
    "relative_position_index",
    "attn_mask",
    "num_batches_tracked",
    "decoder_pos_embed",
)


def settings(family, case):
    """What the arrays of a pre-trained case do not tell."""
    config = case["config"]
    block = (
        case.get("block") or config.get("block_size") or {"mixmim": 32}.get(family, config["patch_size"])
    )
    told = {
        "data.image_size": (config["img_size"],) * 2,
        "method.block_size": block,
        "method.mask_ratio": case["mask_ratio"],
        "method.normalize_target": config.get("norm_pix_loss", False),
    }
    if "decoder_num_heads" in config and family in ("mae_vit", "mixmim"):
        told["method.decoder.heads"] = config["decoder_num_heads"]
    if family.endswith(("_vit", "_pvtv2")):
        told["method.backbone.heads"] = small.BACKBONES[family.split("_")[1]](config)["heads"]
    return tuple(f"{key}={value}" for key, value in told.items())


def expected_network(family, case):
    kind, _, backbone = family.partition("_")
    if kind == "fastmim":
        return small.published_method(backbone, case)
    if kind == "simmim":
        return small.published_simmim(backbone, case)
    return small.published_mae(case) if kind == "mae" else small.published_mixmim(case)


def save(folder, arrays):
    path = folder / "published.safetensors"
    safetensors.numpy.save_file({name: np.ascontiguousarray(x) for name, x in arrays.items()}, path)
    return path


@pytest.mark.parametrize(("family", "name"), PRETRAINED)
def test_a_published_file_is_recognised_and_goes_out_as_it_came_in(family, name, tmp_path):
    case, weights = CASES[family][name], published.weights(CASES[family], name)
    path = save(tmp_path, weights)
    model, told = open_source(path, Options(settings=settings(family, case)))
    assert dict(told)["format"].split()[0] == family
    if (family, name) in COMPUTED:
        noise = published.load(family)[1][f"{name}/noise"]
        assert loss(model, case, noise) == pytest.approx(case["loss"], rel=1e-5)  # float32
    else:  # the very module whose numbers are the published ones, as the tests of its method show
        assert in_words(model.network()) == in_words(expected_network(family, case))
    back = to_torch(model, "official").state
    assert set(weights) <= set(back)
    for key, value in weights.items():
        assert back[key].dtype == value.dtype
        np.testing.assert_array_equal(back[key], value, err_msg=key)
    assert {key.split(".")[-1] for key in back.keys() - weights.keys()} <= set(BUFFERS)


def loss(model, case, noise):
    side = case["config"]["img_size"]
    images = published.images(case["seed"], case["batch"], side, side)
    network = model.network()
    changed = ["batch_stats"] if "batch_stats" in model.variables else False
    out = jax.jit(lambda v: network.apply(v, images, noise=noise, mutable=changed))(model.variables)
    return float((out[0] if changed else out).loss)


def in_words(module):
    """A module's attributes, without those that decide initial values only."""
    return re.sub(r"layer_scale = \S+|(?<=\d)\.0\b", "", repr(module))


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_published_classifier_is_recognised_and_goes_out_as_it_came_in(name, tmp_path):
    case, family = CLASSIFIERS[name], name.split("_")[0]
    if family == "mixmim":
        weights = published.weights(CASES["mixmim"], "classifier")
    else:
        weights = published.weights(CLASSIFIERS, case.get("weights_of", name))
    path = save(tmp_path, weights)
    config, known = case["config"], f"{'' if family == 'mixmim' else 'fastmim_'}{family}_classifier"
    told = (f"model.backbone.heads={config['num_heads']}", f"data.image_size={(config['img_size'],) * 2}")
    # Without its fixed table of positions, nothing tells MixMIM's from a Swin of these windows.
    model, lines = open_source(path, Options(settings=told, format=known if family == "mixmim" else ""))
    assert dict(lines)["format"].split()[0] == known and len(model.classes) == 10
    if not case["train_mode"]:
        images = published.images(case["seed"], case["batch"], *model.image_shape[:2])
        found = jax.jit(model.network().apply)(model.variables, images)
        # 1e-4 as agreed; observed: below 1e-5.
        np.testing.assert_allclose(found, published.load("classifiers")[1][f"{name}/logits"], atol=1e-4)
    written = to_torch(model, "official")
    assert written.format.name == known
    back = written.state
    for key, value in weights.items():
        np.testing.assert_array_equal(back[key], value, err_msg=key)
    assert {key.split(".")[-1] for key in back.keys() - weights.keys()} <= set(BUFFERS)


@pytest.fixture(scope="module")
def mae(tmp_path_factory):
    """The file of a small MAE with its tables of positions, as published files have them."""
    case, weights = CASES["mae_vit"]["norm1"], published.weights(CASES["mae_vit"], "norm1")
    model, _ = open_source(
        save(tmp_path_factory.mktemp("mae"), weights), Options(settings=settings("mae_vit", case))
    )
    return save(tmp_path_factory.mktemp("whole"), to_torch(model, "official").state)


HEADS = ("method.backbone.heads=3", "method.decoder.heads=2")


@pytest.fixture(scope="module")
def converted(mae, tmp_path_factory):
    """-> (the work directory that it became, what was said)."""
    said, folder = [], tmp_path_factory.mktemp("converted") / "mae"
    convert(mae, folder, Options(settings=HEADS), said.append)
    return folder, "\n".join(said)


@pytest.mark.parametrize("ending", ["safetensors", "pth"])
def test_a_file_of_ours_tells_what_arrays_do_not(mae, converted, ending, tmp_path):
    if ending == "pth":
        pytest.importorskip("torch", reason="needs the torch extra: pip install '.[torch]'")
    path = tmp_path / f"again.{ending}"
    convert(converted[0], path, log=lambda text: None)
    model, lines = open_source(path)
    assert in_words(model.network()) == in_words(open_bundle(converted[0]).network())
    assert "assumed" not in dict(lines) and "not read" not in dict(lines)


def test_the_published_vit_b_has_six_heads():
    config = pretrain_config()
    shapes = {path: x.shape for path, x in flatten_variables(ModelBundle(config, {}).shapes()).items()}
    found, _, notes = infer_config(FORMATS["fastmim_vit"], shapes, {})
    assert found.method.backbone.heads == 6 and "6 assumed, as published" in notes[0]
    for told in ({"backbone": {"heads": 12}}, {"image_size": (128, 128)}):
        found, _, notes = infer_config(FORMATS["fastmim_vit"], shapes, {}, told)
        assert found.method.backbone.heads == told.get("backbone", {}).get("heads", 6)
    assert not [note for note in notes if "size" in note]


def test_what_happened_is_told(converted):
    folder, told = converted
    for expected in (
        "format  mae_vit (official: vit, mae)",
        "loaded  48 arrays",
        "made anew  4 sine-cosine tables",
        "model  vit_b16 (mae), 64 x 64 pixels",
        f"config.init={folder}",
        f"written  {folder}",
    ):
        assert expected in told
    assert "assumed" not in told
    assert json.loads((folder / "conversion.json").read_text())["format"] == "mae_vit"


def test_a_work_directory_holds_the_same_bits_and_goes_back(mae, converted, tmp_path):
    before = read_tensors(mae).arrays
    convert(converted[0], tmp_path / "back.safetensors", log=lambda text: None)
    after = read_tensors(tmp_path / "back.safetensors").arrays
    assert before.keys() == after.keys()
    for name, value in before.items():
        np.testing.assert_array_equal(after[name], value, err_msg=name)


def test_other_commands_take_a_converted_checkpoint(converted, tmp_path):
    folder, _ = converted
    config = inherit_backbone(finetune_config(), load_run(folder).config)
    assert config.model.backbone.heads == 3 and config.model.backbone.position_grid == (4, 4)
    with pytest.raises(UserError, match=f"converted checkpoint.*--config.init={folder}"):
        pretrain(small.config(small_images(tmp_path)), folder, log=lambda text: None)
    again = small.config(small_images(tmp_path), steps=1)
    again.data.image_size = (64, 64)
    again.init = str(folder)
    again.method.update(name="mae", target="pixel", block_size=16)
    again.method.backbone.update(open_bundle(folder).section.backbone)
    again.method.decoder.update(open_bundle(folder).section.decoder)
    told = []
    assert pretrain(again, tmp_path / "run", log=told.append) == 1
    assert "loaded  48 arrays" in "\n".join(told)


def small_images(folder):
    if not (folder / "images").exists():
        small.write_images(folder / "images", 16)
    return folder / "images"


def test_the_encoder_alone(mae, tmp_path):
    silent = Options(settings=HEADS, encoder_only=True)
    convert(mae, tmp_path / "encoder", silent, lambda text: None)
    model = open_bundle(tmp_path / "encoder")
    assert (
        model.kind == "classifier" and not model.classes and set(model.variables["params"]) == {"encoder"}
    )
    convert(mae, tmp_path / "encoder.safetensors", silent, lambda text: None)
    names = read_tensors(tmp_path / "encoder.safetensors").arrays
    assert "blocks.0.attn.qkv.weight" in names and not any("decoder" in name for name in names)
    again, lines = open_source(tmp_path / "encoder.safetensors")
    assert dict(lines)["format"].startswith("fastmim_vit_classifier") and not again.classes


def test_another_size_is_resampled_as_fine_tuning_does_it(tmp_path):
    name = "vit_pool"
    path = save(tmp_path, published.weights(CLASSIFIERS, name))
    said = []
    convert(
        path,
        tmp_path / "larger",
        Options(settings=("model.backbone.heads=3",), image_size=(96, 128)),
        said.append,
    )
    assert "resampled  for 96 x 128 pixels: 1 x pos_embed" in "\n".join(said)
    model = open_bundle(tmp_path / "larger")
    assert model.variables["params"]["encoder"]["position"]["pos_embed"].shape == (6, 8, 48)
    assert tuple(model.config.data.image_size) == (96, 128)
    jax.eval_shape(model.network().apply, model.variables, np.zeros((1, 96, 128, 3), np.float32))


def damaged(arrays, kind):
    arrays = dict(arrays)
    if kind == "missing":
        del arrays["blocks.1.mlp.fc1.weight"]
    if kind == "one bias missing":
        del arrays["blocks.1.attn.qkv.bias"]
    if kind == "unknown":
        arrays["surprise"] = np.zeros(3, np.float32)
    if kind == "shape":
        arrays["norm.weight"] = np.zeros(47, np.float32)
    if kind == "transposed":
        arrays["blocks.0.mlp.fc1.weight"] = arrays["blocks.0.mlp.fc1.weight"].T
    if kind == "foreign":
        arrays = {f"conv{index}.weight": np.zeros((3, 3), np.float32) for index in range(4)}
    return arrays


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("missing", "lacks blocks.1.mlp.fc1.weight .1 in all.*--partial"),
        ("one bias missing", "lacks blocks.1.attn.qkv.bias"),
        ("unknown", "1 of 51 arrays have no place in the format 'mae_vit': surprise; type --partial"),
        ("shape", "'norm.weight' makes an array of .47,., but .* has .48,. there"),
        ("transposed", "'blocks.0.mlp.fc1.bias' makes an array of .96,., but the model .* has .24,."),
        ("foreign", "4 names such as conv0.weight.* are of no known format: expected one of fastmim_vit"),
    ],
)
def test_a_damaged_checkpoint_is_refused_and_nothing_is_left(mae, kind, told, tmp_path):
    path = save(tmp_path, damaged(read_tensors(mae).arrays, kind))
    for name in ("out", "out.safetensors"):
        with pytest.raises(UserError, match=told) as caught:
            convert(path, tmp_path / name, Options(settings=HEADS), lambda text: None)
        assert "\n" not in str(caught.value)
    assert [path] == list(tmp_path.iterdir())


@pytest.mark.parametrize("seed", range(12))
def test_any_damage_is_a_sentence(mae, seed):
    """Arrays that are missing, transposed, cut or flattened: a UserError, and no other exception."""
    random, arrays = np.random.default_rng(seed), dict(read_tensors(mae).arrays)
    if seed % 2:
        arrays = dict(published.weights(CASES["fastmim_cmt"], "hog_norm1"))
    for name in random.choice(list(arrays), 1 + seed // 3, replace=False):
        value = arrays.pop(name)
        change = random.choice(["gone", "transposed", "cut", "flat"])
        if change != "gone":
            arrays[name] = {"transposed": value.T, "cut": value[:-1], "flat": value.reshape(-1)}[change]
    if seed == 0:
        arrays = {name: x for name, x in arrays.items() if not name.startswith("decoder_pred")}
    try:
        from_torch(arrays, overrides=HEADS)
    except UserError as error:
        assert "\n" not in str(error)


def test_partial_says_what_starts_fresh_and_what_was_left_out(mae, tmp_path):
    arrays = damaged(damaged(read_tensors(mae).arrays, "missing"), "unknown")
    said = []
    convert(save(tmp_path, arrays), tmp_path / "out", Options(settings=HEADS, partial=True), said.append)
    told = "\n".join(said)
    assert "start fresh  encoder/blocks 1" in told and "left out  1 arrays: surprise" in told


def test_no_bias_in_any_block_is_a_bias_of_zero(mae, tmp_path):
    arrays = {
        k: x
        for k, x in read_tensors(mae).arrays.items()
        if not k.startswith("decoder") or "qkv.bias" not in k
    }
    model, lines = open_source(save(tmp_path, arrays), Options(settings=HEADS))
    assert "1 biases of attention, which the file does not have, are zero" in dict(lines)["assumed"]
    assert not model.variables["params"]["decoder"]["blocks"]["0"]["attn"]["qkv"]["bias"].any()


def run(capsys, *words):
    with pytest.raises(SystemExit) as caught:
        main(list(words))
        raise SystemExit(0)
    return caught.value.code, capsys.readouterr()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["convert", "{mae}"], "1 paths were given, expected 2: type fastmim convert SOURCE DESTINATION"),
        (["convert", "{mae}", "{new}", "--to=keras"], "unknown --to=keras: there is official, timm"),
        (["convert", "{mae}", "{new}", "--to=mmdet"], "--to=mmdet writes a file.*type .*new.safetensors"),
        (["convert", "{mae}", "{new}.pt"], "no kind of file .* such as .*new.pth, or a folder"),
        (["convert", "{mae}", "{mae}"], "is there already: type --overwrite"),
        (
            ["convert", "{mae}", "{new}", "--format=resnet"],
            "unknown format 'resnet'; choose from: fastmim_vit",
        ),
        (
            ["convert", "{mae}", "{new}", "--set=method.width=3"],
            "--set=method.width=3 does not fit the config",
        ),
        (["convert", "{mae}", "{new}", "--set=method.backbone.heads=5"], "these sizes make no model"),
        (["convert", "{mae}", "{new}", "--image_size=0"], "--image_size=0 is no size"),
        (["convert", "{new}", "{mae}2"], "new"),
        (["convert", "{mae}", "{new}", "--workdir=x"], "fastmim convert takes no --workdir"),
        (["probe", "--workdir={mae}"], "published.safetensors is a file: type fastmim convert"),
        (["verify", "{mae}", "{swin}"], "these are different models, vit_b16 .* and swin_b"),
    ],
)
def test_bad_input_gets_one_sentence(mae, words, told, tmp_path, capsys):
    weights = published.weights(CASES["fastmim_swin"], "hog_norm1")
    places = {"mae": mae, "new": tmp_path / "new", "swin": save(tmp_path, weights)}
    code, output = run(capsys, *[word.format(**places) for word in words])
    assert code == 2 and re.search(told, output.err) and output.err.count("\n") == 1
    assert not places["new"].exists()


def test_mixmim_has_no_place_in_timm(tmp_path):
    weights = published.weights(CASES["mixmim"], "norm1")
    with pytest.raises(UserError, match="timm has no mixmim: type --to= with one of mmpretrain, official"):
        convert(save(tmp_path, weights), tmp_path / "out", Options(to="timm"), lambda text: None)
    convert(
        save(tmp_path, weights), tmp_path / "mm.safetensors", Options(to="mmpretrain"), lambda text: None
    )
    again, lines = open_source(tmp_path / "mm.safetensors")
    assert dict(lines)["format"].startswith("mmpretrain_mixmim")
    for name, value in to_torch(again, "official").state.items():
        if name in weights:
            np.testing.assert_array_equal(value, weights[name], err_msg=name)


def test_verify_tells_equal_from_different(mae, converted, tmp_path, capsys):
    same = [
        "verify",
        str(converted[0]),
        str(mae),
        "--set=method.backbone.heads=3",
        "--set=method.decoder.heads=2",
    ]
    code, output = run(capsys, *same)
    assert code == 0 and "all 5 layers agree" in output.out and "48 of 48" in output.out
    arrays = read_tensors(mae).arrays
    arrays["blocks.1.mlp.fc2.bias"] = arrays["blocks.1.mlp.fc2.bias"] + np.linspace(0, 0.1, 48, dtype="f4")
    code, output = run(capsys, "verify", str(converted[0]), str(save(tmp_path, arrays)), *same[3:])
    assert code == 1 and "47 of 48" in output.out
    assert re.search(r"block 1 .*\d\n", output.out) and re.search(r"block 2 .*<-- differs", output.out)
    code, output = run(capsys, "verify", str(converted[0]), str(mae), "--set=method.decoder.heads=2")
    assert code == 1 and "but  A has heads 3, B 1" in output.out
