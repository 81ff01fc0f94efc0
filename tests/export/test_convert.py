"""Every published case loads from a file as the same model, and is exported again to the bit."""

import json
import re

import jax
import numpy as np
import pytest
import safetensors.numpy

from fastmim_jax.__main__ import main
from fastmim_jax.config import finetune_config, pretrain_config
from fastmim_jax.errors import FormatMismatch, UserError
from fastmim_jax.export import from_torch as from_torch_module
from fastmim_jax.export import infer_backbone
from fastmim_jax.export.bundle import ModelBundle, open_bundle
from fastmim_jax.export.convert import Options, convert, open_source
from fastmim_jax.export.files.array_files import read_tensors
from fastmim_jax.export.formats import FORMATS
from fastmim_jax.export.formats.names import flatten_variables
from fastmim_jax.export.formats.rules import Transform
from fastmim_jax.export.from_torch import from_torch
from fastmim_jax.export.infer_config import Assumption, infer_config
from fastmim_jax.export.to_torch import to_torch
from fastmim_jax.train.inherit_backbone import inherit_backbone
from fastmim_jax.train.pretrain import pretrain
from fastmim_jax.train.runs import load_run
from helpers import published, small
from helpers.sweeps import sweep

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
KEPT = [*COMPUTED[::2], ("simmim_vit", "abs_rpb"), ("simmim_swin", "ape")]
BUFFERS = (
    "pos_embed",
    "absolute_pos_embed",
    "relative_position_index",
    "attn_mask",
    "num_batches_tracked",
    "decoder_pos_embed",
)


def settings(family, case):
    """Settings that the arrays of a pre-trained case do not determine."""
    config = case["config"]
    block = (
        case.get("block") or config.get("block_size") or {"mixmim": 32}.get(family, config["patch_size"])
    )
    keys = {
        "data.image_size": (config["img_size"],) * 2,
        "method.block_size": block,
        "method.mask_ratio": case["mask_ratio"],
        "method.normalize_target": config.get("norm_pix_loss", False),
    }
    if "decoder_num_heads" in config and family in ("mae_vit", "mixmim"):
        keys["method.decoder.heads"] = config["decoder_num_heads"]
    if family.endswith(("_vit", "_pvtv2")):
        keys["method.backbone.heads"] = small.BACKBONES[family.split("_")[1]](config)["heads"]
    return tuple(f"{key}={value}" for key, value in keys.items())


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


@pytest.mark.slow
@pytest.mark.parametrize(("family", "name"), sweep(PRETRAINED, KEPT))
def test_a_published_file_is_detected_and_exported_unchanged(family, name, tmp_path):
    case, weights = CASES[family][name], published.weights(CASES[family], name)
    path = save(tmp_path, weights)
    model, report = open_source(path, Options(settings=settings(family, case)))
    assert report.load.format.name == family
    if (family, name) in COMPUTED:
        noise = published.load(family)[1][f"{name}/noise"]
        assert loss(model, case, noise) == pytest.approx(case["loss"], rel=1e-5)  # float32
    else:  # the module that the tests of its method compare with the published numbers
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


@pytest.mark.slow
@pytest.mark.parametrize("name", sweep(CLASSIFIERS, ["vit_pool", "swin_w4", "mixmim"]))
def test_a_published_classifier_is_detected_and_exported_unchanged(name, tmp_path):
    case, family = CLASSIFIERS[name], name.split("_")[0]
    if family == "mixmim":
        weights = published.weights(CASES["mixmim"], "classifier")
    else:
        weights = published.weights(CLASSIFIERS, case.get("weights_of", name))
    path = save(tmp_path, weights)
    config, format_name = case["config"], f"{'' if family == 'mixmim' else 'fastmim_'}{family}_classifier"
    keys = (f"model.backbone.heads={config['num_heads']}", f"data.image_size={(config['img_size'],) * 2}")
    # Without its fixed table of positions, MixMIM has the names of a Swin with these windows.
    options = Options(settings=keys, format=format_name if family == "mixmim" else "")
    model, report = open_source(path, options)
    assert report.load.format.name == format_name and len(model.classes) == 10
    if not case["train_mode"]:
        images = published.images(case["seed"], case["batch"], *model.image_shape[:2])
        found = jax.jit(model.network().apply)(model.variables, images)
        # 1e-4 as agreed; observed: below 1e-5.
        np.testing.assert_allclose(found, published.load("classifiers")[1][f"{name}/logits"], atol=1e-4)
    written = to_torch(model, "official")
    assert written.format.name == format_name
    back = written.state
    for key, value in weights.items():
        np.testing.assert_array_equal(back[key], value, err_msg=key)
    assert {key.split(".")[-1] for key in back.keys() - weights.keys()} <= set(BUFFERS)


@pytest.fixture(scope="module")
def mae(tmp_path_factory):
    """File of a small MAE with its tables of positions, as published files have them."""
    case, weights = CASES["mae_vit"]["norm1"], published.weights(CASES["mae_vit"], "norm1")
    model, _ = open_source(
        save(tmp_path_factory.mktemp("mae"), weights), Options(settings=settings("mae_vit", case))
    )
    return save(tmp_path_factory.mktemp("with_tables"), to_torch(model, "official").state)


HEADS = ("method.backbone.heads=3", "method.decoder.heads=2")


@pytest.fixture(scope="module")
def converted(mae, tmp_path_factory):
    """-> (the work directory that it was converted to, the log)."""
    lines, folder = [], tmp_path_factory.mktemp("converted") / "mae"
    convert(mae, folder, Options(settings=HEADS), lines.append)
    return folder, "\n".join(lines)


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["safetensors", "pth"])
def test_a_file_of_ours_has_the_settings_that_arrays_do_not_determine(mae, converted, ending, tmp_path):
    if ending == "pth":
        pytest.importorskip("torch", reason="needs the torch extra: pip install '.[torch]'")
    path = tmp_path / f"again.{ending}"
    convert(converted[0], path, log=lambda text: None)
    model, report = open_source(path)
    assert in_words(model.network()) == in_words(open_bundle(converted[0]).network())
    assert not report.load.assumptions and not report.tensors.ignored


@pytest.mark.slow
def test_the_published_vit_b_has_six_heads():
    config = pretrain_config()
    shapes = {path: x.shape for path, x in flatten_variables(ModelBundle(config, {}).shapes()).items()}
    found, _, assumptions = infer_config(FORMATS["fastmim_vit"], shapes, {})
    heads, size, decoder = (
        Assumption("method.backbone.heads", 6, "as published"),
        Assumption("data.image_size", (128, 128)),
        Assumption("method.decoder.heads", 8),
    )
    assert found.method.backbone.heads == 6 and assumptions == [heads, size, decoder]
    assert str(decoder).startswith("decoder heads 8: the arrays do not determine it")
    assert str(heads).startswith("heads 6, as published: the arrays do not determine it (--set=method.")
    assert '128 x 128: the arrays do not determine it (--set="data.image_size=(128, 128)")' in str(size)
    for given, expected in (
        ({"backbone": {"heads": 12}}, [size, decoder]),
        ({"image_size": (128, 128), "decoder": {"heads": 4}}, [heads]),
    ):
        found, _, assumptions = infer_config(FORMATS["fastmim_vit"], shapes, {}, given)
        assert found.method.backbone.heads == given.get("backbone", {}).get("heads", 6)
        assert assumptions == expected


@pytest.mark.slow
def test_the_log_reports_every_step(converted):
    folder, log = converted
    for expected in (
        "format  mae_vit (official: vit, mae)",
        "loaded  48 arrays",
        "recomputed  4 sine-cosine tables",
        "model  vit with patch_size 16, width 48, depth 2, heads 3, mlp_ratio 2.0 (mae), 64 x 64 pixels",
        f"config.init={folder}",
        f"written  {folder}",
    ):
        assert expected in log
    assert "assumed" not in log
    conversion = json.loads((folder / "conversion.json").read_text())
    assert conversion["format"] == "mae_vit"
    (described,) = (text for label, text in conversion["told"] if label == "model")
    assert described.endswith("mlp_ratio 2.0 (mae), 64 x 64 pixels, 3 channels")
    assert conversion["source"] == "published.safetensors"


@pytest.mark.slow
def test_a_work_directory_holds_the_same_bits_and_goes_back(mae, converted, tmp_path):
    before = read_tensors(mae).arrays
    convert(converted[0], tmp_path / "back.safetensors", log=lambda text: None)
    after = read_tensors(tmp_path / "back.safetensors").arrays
    assert before.keys() == after.keys()
    for name, value in before.items():
        np.testing.assert_array_equal(after[name], value, err_msg=name)


@pytest.mark.slow
def test_other_commands_take_a_converted_checkpoint(converted, one_device, tmp_path):
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
    lines = []
    assert pretrain(again, tmp_path / "run", log=lines.append) == 1
    assert "loaded  48 arrays" in "\n".join(lines)


def small_images(folder):
    if not (folder / "images").exists():
        small.write_images(folder / "images", 16)
    return folder / "images"


@pytest.mark.slow
def test_the_encoder_alone(mae, tmp_path):
    options = Options(settings=HEADS, encoder_only=True)
    convert(mae, tmp_path / "encoder", options, lambda text: None)
    model = open_bundle(tmp_path / "encoder")
    assert (
        model.kind == "classifier" and not model.classes and set(model.variables["params"]) == {"encoder"}
    )
    convert(mae, tmp_path / "encoder.safetensors", options, lambda text: None)
    names = read_tensors(tmp_path / "encoder.safetensors").arrays
    assert "blocks.0.attn.qkv.weight" in names and not any("decoder" in name for name in names)
    again, report = open_source(tmp_path / "encoder.safetensors")
    assert report.load.format.name == "fastmim_vit_classifier" and not again.classes


@pytest.mark.slow
def test_another_size_is_resampled_as_in_fine_tuning(tmp_path):
    name = "vit_pool"
    path = save(tmp_path, published.weights(CLASSIFIERS, name))
    lines = []
    convert(
        path,
        tmp_path / "larger",
        Options(settings=("model.backbone.heads=3",), image_size=(96, 128)),
        lines.append,
    )
    assert "resampled  for 96 x 128 pixels: 1 x pos_embed" in "\n".join(lines)
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


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", "lacks blocks.1.mlp.fc1.weight .1 in all.*--partial"),
        ("one bias missing", "lacks blocks.1.attn.qkv.bias"),
        ("unknown", "1 of 51 arrays has no place in the format 'mae_vit': surprise; type --partial"),
        ("shape", "'norm.weight' makes an array of .47,., but .* has .48,. there"),
        ("transposed", "'blocks.0.mlp.fc1.bias' makes an array of .96,., but the model .* has .24,."),
        ("foreign", "4 names such as conv0.weight.* are of no known format: expected one of fastmim_vit"),
    ],
)
def test_a_damaged_checkpoint_is_refused_and_nothing_is_left(mae, kind, message, tmp_path):
    path = save(tmp_path, damaged(read_tensors(mae).arrays, kind))
    for name in ("out", "out.safetensors"):
        with pytest.raises(UserError, match=message) as caught:
            convert(path, tmp_path / name, Options(settings=HEADS), lambda text: None)
        assert "\n" not in str(caught.value)
    assert [path] == list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(12))
def test_any_damage_gives_one_sentence(mae, seed):
    """Missing, transposed, cut or flattened arrays lead to a FormatMismatch and no other exception."""
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
    except FormatMismatch as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize("mistake", [NameError, TypeError, ValueError, KeyError, AttributeError])
@pytest.mark.parametrize("where", ["transform", "reader of sizes", "config"])
def test_a_programming_error_surfaces_as_itself(mae, mistake, where, monkeypatch):
    def broken(*args, **kwargs):
        raise mistake("planted")

    if where == "transform":
        fmt = FORMATS["mae_vit"]
        table = tuple(
            rule._replace(arrays=tuple((*names, Transform(broken, broken)) for *names, _ in rule.arrays))
            for rule in fmt.table
        )
        monkeypatch.setitem(FORMATS, "mae_vit", fmt._replace(table=table))
    elif where == "reader of sizes":
        monkeypatch.setitem(infer_backbone.READERS, "vit", broken)
    else:
        monkeypatch.setattr(from_torch_module, "infer_config", broken)
    with pytest.raises(mistake, match="planted"):
        from_torch(read_tensors(mae).arrays, overrides=HEADS)


@pytest.mark.parametrize("dtype", ["U3", "S3", "complex64"])
def test_arrays_of_other_things_than_numbers_are_named(mae, dtype):
    arrays = dict(read_tensors(mae).arrays)
    arrays["norm.bias"] = np.zeros(48, dtype)
    with pytest.raises(FormatMismatch, match=f"'norm.bias' is .*{dtype}, expected real numbers"):
        from_torch(arrays, overrides=HEADS)


@pytest.mark.parametrize(("value", "kind"), [(np.nan, "NaN"), (-np.inf, "infinity"), (1e39, "infinity")])
def test_values_that_are_not_finite_are_an_error(mae, value, kind):
    arrays = dict(read_tensors(mae).arrays)
    arrays["blocks.1.mlp.fc1.weight"] = arrays["blocks.1.mlp.fc1.weight"].astype(np.float64)
    arrays["blocks.1.mlp.fc1.weight"][3, 4] = value
    with pytest.raises(UserError, match=f"'blocks.1.mlp.fc1.weight' has {kind} in 1 of its 4,608 values"):
        from_torch(arrays, overrides=HEADS)


@pytest.mark.slow
def test_an_override_by_its_full_name_is_no_assumption(tmp_path):
    weights = published.weights(CLASSIFIERS, "vit_pool")
    _, report = from_torch(weights)
    keys = [assumption.key for assumption in report.assumptions]
    assert keys == ["model.backbone.heads", "data.image_size"]
    for prefix in ("", "config."):
        side = CLASSIFIERS["vit_pool"]["config"]["img_size"]
        size = f"{prefix}data.image_size=({side}, {side})"
        _, report = from_torch(weights, overrides=[f"{prefix}model.backbone.heads=3", size])
        assert not report.assumptions


@pytest.mark.slow
def test_partial_reports_initialised_and_left_out_arrays(mae, tmp_path):
    arrays = damaged(damaged(read_tensors(mae).arrays, "missing"), "unknown")
    lines = []
    convert(save(tmp_path, arrays), tmp_path / "out", Options(settings=HEADS, partial=True), lines.append)
    log = "\n".join(lines)
    assert "start fresh  encoder/blocks 1" in log and "left out  1 array: surprise" in log


def test_no_bias_in_any_block_is_a_bias_of_zero(mae, tmp_path):
    arrays = {
        k: x
        for k, x in read_tensors(mae).arrays.items()
        if not k.startswith("decoder") or "qkv.bias" not in k
    }
    model, report = open_source(save(tmp_path, arrays), Options(settings=HEADS))
    assert report.load.zero_biases == 1
    assert "1 attention bias of zero: the file has none" in dict(report.lines())["assumed"]
    assert not model.variables["params"]["decoder"]["blocks"]["0"]["attn"]["qkv"]["bias"].any()


def run(capsys, *words):
    with pytest.raises(SystemExit) as caught:
        main(list(words))
        raise SystemExit(0)
    return caught.value.code, capsys.readouterr()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["convert", "{mae}"], "1 path was given, expected 2: type fastmim convert SOURCE DESTINATION"),
        (["convert", "{mae}", "{new}", "--to=keras"], "unknown --to=keras; choose from: official, timm"),
        (["convert", "{mae}", "{new}", "--to=mmseg"], "--to=mmseg writes a file.*type .*new.safetensors"),
        (
            ["convert", "{mae}", "{new}.pt"],
            "suffix that is not written here: .* such as .*new.pth",
        ),
        (["convert", "{mae}", "{mae}"], "published.safetensors is the source: type another"),
        (["convert", "{mae}", "{swin}"], "exists already: type --overwrite"),
        (
            ["convert", "{mae}", "{new}", "--format=resnet"],
            "unknown format 'resnet'; choose from: fastmim",
        ),
        (
            ["convert", "{mae}", "{new}", "--set=method.width=3"],
            "--set=method.width=3 does not fit the config",
        ),
        (["convert", "{mae}", "{new}", "--set=method.backbone.heads=5"], "these sizes make no model"),
        (["convert", "{mae}", "{new}", "--image_size=0"], "--image_size is 0, expected a side"),
        (["convert", "{new}", "{mae}2"], "new"),
        (["convert", "{mae}", "{new}", "--workdir=x"], "fastmim convert has no flag --workdir"),
        (["probe", "--workdir={mae}"], "published.safetensors is a file: type fastmim convert"),
        (["verify", "{mae}", "{swin}"], "these are different models, vit with .* and swin with"),
    ],
)
def test_bad_input_gets_one_sentence(mae, words, message, tmp_path, capsys):
    weights = published.weights(CASES["fastmim_swin"], "hog_norm1")
    paths = {"mae": mae, "new": tmp_path / "new", "swin": save(tmp_path, weights)}
    code, output = run(capsys, *[word.format(**paths) for word in words])
    assert code == 2 and re.search(message, output.err) and output.err.count("\n") == 1
    assert not paths["new"].exists()


@pytest.mark.slow
def test_mixmim_has_no_place_in_timm(tmp_path):
    weights = published.weights(CASES["mixmim"], "norm1")
    with pytest.raises(UserError, match="timm has no mixmim: choose --to= from: mmpretrain, official"):
        convert(save(tmp_path, weights), tmp_path / "out", Options(to="timm"), lambda text: None)
    convert(
        save(tmp_path, weights), tmp_path / "mm.safetensors", Options(to="mmpretrain"), lambda text: None
    )
    again, report = open_source(tmp_path / "mm.safetensors")
    assert report.load.format.name.startswith("mmpretrain_mixmim")
    for name, value in to_torch(again, "official").state.items():
        if name in weights:
            np.testing.assert_array_equal(value, weights[name], err_msg=name)


@pytest.mark.slow
def test_verify_finds_the_layer_that_differs(mae, converted, tmp_path, capsys):
    same = [
        "verify",
        str(converted[0]),
        str(mae),
        "--set=method.backbone.heads=3",
        "--set=method.decoder.heads=2",
    ]
    code, output = run(capsys, *same)
    assert code == 0 and "all 5 layers agree" in output.out and "48 of 48 arrays" in output.out
    arrays = read_tensors(mae).arrays
    arrays["blocks.1.mlp.fc2.bias"] = arrays["blocks.1.mlp.fc2.bias"] + np.linspace(0, 0.1, 48, dtype="f4")
    code, output = run(capsys, "verify", str(converted[0]), str(save(tmp_path, arrays)), *same[3:])
    assert code == 1 and "47 of 48" in output.out
    assert re.search(r"block 1 .*\d\n", output.out) and re.search(r"block 2 .*<-- differs", output.out)
    code, output = run(capsys, "verify", str(converted[0]), str(mae), "--set=method.decoder.heads=2")
    assert code == 1 and "but  A has heads 3, B 1" in output.out
