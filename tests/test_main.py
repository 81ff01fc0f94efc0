"""The command line: what it refuses, in one sentence, and what it says of odd images."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from fastmim_jax import __main__
from fastmim_jax.__main__ import main
from fastmim_jax.cli.command import usage
from fastmim_jax.cli.commands import COMMANDS
from fastmim_jax.cli.flags import flag_name
from fastmim_jax.cli.terminal import print_warnings
from fastmim_jax.data.sources import open_source
from fastmim_jax.evaluate.probe import KINDS
from helpers.commands import refused

ROOT = Path(__file__).parents[1]
QUICKSTART = "--config=configs/quickstart.py"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["pretain"], "choose from: pretrain, reconstruct"),
        (["pretrain"], "needs --config: type --config=FILE.py[:VARIANT]"),
        (["pretrain", QUICKSTART], "type --workdir=DIR"),
        (["pretrain", "--config=configs/quickstrat.py"], "quickstart.py"),
        (["pretrain", "--config=configs/fastmim.py:vit_b61"], "vit_b16_official"),
        (["pretrain", QUICKSTART, "--config.data.pth=x"], "did you mean --config.data.path?"),
        (["pretrain", QUICKSTART, "--config.seed=abc"], "--config.seed=abc"),
        (["pretrain", QUICKSTART, "--workdri=x"], "did you mean --workdir?"),
        (["pretrain", QUICKSTART, "stray"], "'stray' is not a flag"),
        (
            ["pretrain", QUICKSTART, "--workdir=x", "--count=3"],
            "has no flag --count; its flags are: --config, --workdir, --distributed",
        ),
        (["pretrain", "--config.seed=1"], "--config.seed needs a config: type --config=FILE.py[:VARIANT]"),
        (["verify", "one"], "1 path was given, expected 2: type fastmim verify A B"),
        (["convert", "pyproject.toml", "b", "--image_size=big"], "--image_size is big"),
        (["features", "--workdir=w", "--images=i"], "fastmim features needs --out"),
        (["finetune", QUICKSTART, "--workdir=w"], "type fastmim pretrain with it"),
        (["reconstruct", "--workdir=nowhere"], "nowhere does not exist"),
    ],
)
def test_words_that_cannot_be_meant(capsys, words, message):
    assert message in refused(capsys, *words)


@pytest.mark.parametrize(
    ("command", "advice"), [("probe", "type a smaller --count"), ("evaluate", "end other")]
)
def test_an_error_for_lack_of_memory_is_a_sentence(monkeypatch, capsys, command, advice):
    def run(values, paths):
        np.zeros(1 << 44)

    monkeypatch.setattr(__main__, "check_inputs", lambda *words: None)
    monkeypatch.setitem(COMMANDS, command, COMMANDS[command]._replace(run=run))
    text = refused(capsys, command, "--workdir=w")
    assert "out of memory (Unable to allocate 128" in text and f"): {advice}" in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("method.block_size=12", "--config.method.block_size=8"),
        ("data.image_size=(60,64)", "--config.data.image_size='(64, 64)'"),
        ("data.image_size=(64,)", "such as (128, 128)"),
        ("schedule.batch_size=30", "--config.schedule.batch_size=32"),
        ("method.mask_ratio=1.5", "--config.method.mask_ratio=0.75"),
        ("method.target=hogg", "choose from: hog, pixel"),
        ("method.dtype=float16", "--config.method.dtype=bfloat16"),
        ("method.kernel=cudnn", "--config.method.kernel=xla"),
        ("method.name=fastmin", "choose from: crossmae, fastmim"),
        ("method.backbone.name=vit_x16", "'vit_x16'; choose from: "),
        ("method.backbone.heads=5", "--config.method.backbone.heads=4"),
        ("run.mesh_fsdp=3", "--config.run.mesh_fsdp=1"),
        ("data.mean=(0.5,)", "give one per channel"),
        ("data.path=nowhere/at/all", "nowhere/at/all"),
        ("schedule.steps=0 schedule.epochs=0.001", "less than one batch"),
    ],
)
def test_configs_that_cannot_work(capsys, tmp_path, change, message):
    changes = [f"--config.{word}" for word in change.split()]
    assert message in refused(capsys, "pretrain", QUICKSTART, f"--workdir={tmp_path / 'w'}", *changes)
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            "method.backbone.heads=6",
            "--config.method.backbone.heads",
        ),
        ("method.backbone.depths=(2,2)", "--config.method.backbone.depths"),
        ("method.backbone.depth=4", "--config.method.backbone.depth"),
        (
            "method.backbone.window=7",
            "backbone.window is 7, which does not divide the 32 x 32 cells",
        ),
        ("method.block_size=16 data.image_size=(80,64)", "--config.data.image_size='(64, 64)'"),
        ("data.image_size=(544,544)", "type another --config.data.image_size"),
        ("stages.image_sizes=(64,100)", "set entry 2 of --config.stages.image_sizes to (96, 96)"),
        ("stages.image_sizes=(64,96) stages.windows=(0,)", "one entry per stage"),
        ("stages.image_sizes=(64,96) stages.windows=(4,5)", "config.stages.windows[1] is 5"),
    ],
)
def test_backbones_and_stages_that_cannot_work(capsys, tmp_path, change, message):
    words = ["pretrain", "--config=configs/fastmim.py:swin_t", f"--workdir={tmp_path / 'w'}"]
    assert message in refused(capsys, *words, *[f"--config.{word}" for word in change.split()])
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("schedule.batch_size=48", "48, which cannot be split into 16 groups of pairs: type"),
        ("data.image_size=(224,200)", "--config.data.image_size='(224, 192)'"),
        ("method.mask_ratio=0.01", "masks 0 of 49 blocks"),
        ("method.backbone.name=vit_b16", "'vit_b16', which cannot separate the two images of a mixture"),
    ],
)
def test_mixtures_that_cannot_work(capsys, tmp_path, change, message):
    words = ["pretrain", "--config=configs/mixmim.py:base", f"--workdir={tmp_path / 'w'}"]
    assert message in refused(capsys, *words, f"--config.{change}")


def test_an_empty_folder_and_one_without_images(capsys, tmp_path):
    words = ["pretrain", QUICKSTART, f"--workdir={tmp_path / 'w'}", f"--config.data.path={tmp_path}"]
    assert str(tmp_path) in refused(capsys, *words)
    (tmp_path / "notes.txt").write_text("no image")
    assert ".txt" in refused(capsys, *words)


def test_a_work_directory_that_cannot_be_written(capsys, tmp_path):
    (tmp_path / "file").write_text("in the way")
    message = refused(capsys, "pretrain", QUICKSTART, f"--workdir={tmp_path / 'file' / 'w'}")
    assert "--workdir=DIR" in message


def test_help_is_not_an_error(capsys):
    main([])
    assert "fastmim pretrain" in capsys.readouterr().out
    main(["probe", "--help"])
    text = capsys.readouterr().out
    assert usage("probe", COMMANDS["probe"]) in text
    assert all(f"--{flag_name(flag)}" in text for flag in COMMANDS["probe"].flags)
    assert f"{', '.join(KINDS)}; default: " in text and "--config.KEY" not in text


def test_the_help_imports_no_library():
    code = "from fastmim_jax.__main__ import main; main(['probe', '--help']); import sys;"
    code += "assert not {'jax', 'numpy', 'absl', 'PIL', 'ml_collections'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, stdout=subprocess.DEVNULL)


def test_the_package_is_run_as_the_command():
    words = [sys.executable, "-m", "fastmim_jax"]
    run = subprocess.run(words, capture_output=True, text=True, check=True, cwd=ROOT)
    assert "fastmim pretrain" in run.stdout


@pytest.mark.slow
def test_importing_the_package_touches_no_device():
    code = (
        "import fastmim_jax, sys; assert 'jax' not in sys.modules; fastmim_jax.hog;"
        "from jax._src import xla_bridge; assert not xla_bridge.backends_are_initialized()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def write_odd_images(folder):
    """One of each kind -> the names of those that cannot be decoded."""
    random = np.random.default_rng(0)
    photo = Image.fromarray(random.integers(0, 256, (48, 64, 3), dtype=np.uint8))
    photo.save(folder / "photo.jpg")
    (folder / "truncated.jpg").write_bytes((folder / "photo.jpg").read_bytes()[:900])
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.jpg").write_text("<html>not found</html>")
    photo.convert("L").save(folder / "gray.jpg")
    photo.convert("P").save(folder / "palette.png")
    photo.convert("CMYK").save(folder / "cmyk.jpg")
    deep = random.integers(0, 65536, (32, 32), dtype=np.uint16)
    Image.fromarray(deep).save(folder / "deep.png")
    photo.convert("RGBA").save(folder / "alpha.png")
    turned = Image.Exif()
    turned[0x0112] = 6
    photo.save(folder / "turned.jpg", exif=turned)
    Image.new("RGB", (1, 1), "red").save(folder / "dot.bmp")
    Image.new("RGB", (12000, 40), "blue").save(folder / "wide.webp")
    return {"truncated.jpg", "empty.png", "text.jpg"}


CONFIG = """
import sys
sys.path.insert(0, {tests!r})
from helpers import small

def get_config():
    return small.config({data!r})
"""


@pytest.mark.slow
def test_odd_images_are_read_or_named_then_reconstructed(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(jax, "devices", lambda: jax.local_devices()[:1])
    folder, workdir = tmp_path / "images", tmp_path / "work"
    folder.mkdir()
    replaced = write_odd_images(folder)
    config = tmp_path / "config.py"
    config.write_text(CONFIG.format(tests=str(ROOT / "tests"), data=str(folder)))
    main(["pretrain", f"--config={config}", f"--workdir={workdir}"])
    printed = capsys.readouterr().out
    named = {line.split("\t")[0] for line in (workdir / "bad_files.txt").read_text().splitlines()}
    assert {Path(name).name for name in named} == replaced
    assert "3 of 12 records could not be decoded" in printed
    assert json.loads((workdir / "metrics.jsonl").read_text().splitlines()[-1])["bad_records"] == 3

    main(["reconstruct", f"--workdir={workdir}", f"--images={folder}", "--count=4"])
    picture = Image.open(capsys.readouterr().out.strip().splitlines()[-1])
    assert picture.width > 800 and picture.height > 800


@pytest.mark.slow
def test_too_many_bad_images_stop_the_run(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(jax, "devices", lambda: jax.local_devices()[:1])
    folder = tmp_path / "images"
    folder.mkdir()
    write_odd_images(folder)
    for index in range(20):
        (folder / f"more{index}.jpg").write_text("not an image")
    words = [f"--config.data.path={folder}", "--config.data.eval_split=", "--config.schedule.steps=8"]
    words += ["--config.method.backbone.depth=1"]
    with pytest.raises(SystemExit, match="2"):
        main(["pretrain", QUICKSTART, f"--workdir={tmp_path / 'w'}", *words])
    *warnings, message = capsys.readouterr().err.splitlines()
    assert message.startswith("fastmim: 23 of 32 records") and "config.data.max_bad_share" in message
    assert all(
        line.endswith("of the images shown or held out were replaced: undecodable") for line in warnings
    )


def test_warnings_about_data_are_printed_once(tmp_path, capsys, monkeypatch):
    Image.new("RGB", (4, 4)).save(tmp_path / "one.png")
    (tmp_path / "notes.txt").touch()
    print_warnings()
    for _ in range(2):
        open_source(tmp_path)
    assert capsys.readouterr().err == f"{tmp_path}: 1 other file ignored (1 .txt)\n"
    print_warnings()
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    open_source(tmp_path)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("command", "typed"),
    [
        ("pretrain", "--config.run.workers=N --config.data.value_range='(LOWEST, HIGHEST)'"),
        ("features", "--set=run.workers=N --set=data.value_range='(LOWEST, HIGHEST)'"),
        ("evaluate", "--set=run.workers=N --set=data.value_range='(LOWEST, HIGHEST)'"),
        ("prepare", "--workers=N --value_range='(LOWEST, HIGHEST)'"),
    ],
)
def test_advice_names_flags_that_the_command_takes(command, typed):
    text = "--config.run.workers=N --config.data.value_range='(LOWEST, HIGHEST)'"
    assert COMMANDS[command].as_typed(text) == typed


def test_every_command_opens_data_where_the_warnings_are():
    sources = ("FolderSource(", "FileSource(", "ZipSource(", "ParquetSource(", "TarSource(", "TFDSSource(")
    package = ROOT / "fastmim_jax"
    others = [path for path in package.rglob("*.py") if package / "data" / "sources" not in path.parents]
    assert not [path for path in others if any(name in path.read_text() for name in sources)]
