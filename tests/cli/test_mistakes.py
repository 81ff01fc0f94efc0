"""Typical mistakes at the command line and in Python: one sentence each, with the fix."""

import json

import numpy as np
import pytest

import fastmim_jax
from fastmim_jax.cli.check_inputs import check_inputs
from fastmim_jax.errors import UserError
from helpers import small
from helpers.commands import refused

QUICK, OWN = "--config=configs/quickstart.py", "--config=configs/own.py:tiny"
TUNE = "--config=configs/finetune.py"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with images, a labelled folder, and the work directories of two runs without checkpoints."""
    root = tmp_path_factory.mktemp("mistakes")
    small.write_images(root / "photos", 3)
    small.write_classes(root / "labelled", train=(2, 2), val=(1, 1))
    (root / "empty").mkdir()
    (root / "texts").mkdir()
    (root / "texts" / "notes.txt").write_text("no image")
    (root / "mae.pth").write_bytes(b"no checkpoint")
    for name, config in (("run", small.config()), ("tuned", small.tuning())):
        (root / "runs" / name / "checkpoints" / "100").mkdir(parents=True)
        (root / "runs" / name / "config.json").write_text(json.dumps(config.to_dict()))
    return root


# What is typed ({0}: the folder), and what the answer says.
COMMANDS = [
    # commands
    ("pretain", "did you mean pretrain?"),
    ("train", "did you mean pretrain?"),
    ("fine-tune", "did you mean finetune?"),
    ("export", "did you mean convert?"),
    ("eval --workdir={0}/runs/run", "did you mean evaluate?"),
    ("Probe", "did you mean probe?"),
    # configs and variants
    ("pretrain --config=configs/mea.py --workdir={0}/w", "did you mean configs/mae.py?"),
    ("pretrain --config=configs/mae.py:vit_b61 --workdir={0}/w", "did you mean vit_b16?"),
    ("pretrain --config=configs/own.py:tinny --workdir={0}/w", "did you mean tiny?"),
    ("pretrain --config=own --workdir={0}/w --config.data.path={0}/nothing", "does not exist"),
    ("pretrain configs/mae.py --workdir={0}/w", "type --config=configs/mae.py"),
    ("pretrain --workdir={0}/w", "needs --config: type --config=FILE.py[:VARIANT]"),
    (f"pretrain {QUICK}", "type --workdir=DIR"),
    (f"pretrain {TUNE} --workdir={{0}}/w", "type fastmim finetune with it"),
    (f"finetune {OWN} --workdir={{0}}/w", "type fastmim pretrain with it"),
    ("configs mea", "did you mean configs/mae.py?"),
    # flags
    (f"pretrain {QUICK} --workdri={{0}}/w", "did you mean --workdir?"),
    (f"pretrain {QUICK} --output_dir={{0}}/w", "did you mean --workdir?"),
    (
        f"pretrain {QUICK} --workdir={{0}}/w --batch_size=64",
        "did you mean --config.schedule.batch_size=64?",
    ),
    (f"pretrain {QUICK} --workdir={{0}}/w --lr=1e-3", "did you mean --config.optimizer.base_lr=1e-3?"),
    (f"pretrain {QUICK} --workdir={{0}}/w --epochs=10", "did you mean --config.schedule.epochs=10?"),
    (f"pretrain {QUICK} --workdir={{0}}/w --data_path={{0}}", "did you mean --config.data.path={0}?"),
    (f"pretrain {QUICK} --workdir={{0}}/w --resume={{0}}", "did you mean --config.init={0}?"),
    (f"pretrain {QUICK} --workdir={{0}}/w --num_workers=4", "did you mean --config.run.workers=4?"),
    (f"pretrain {QUICK} workdir={{0}}/w", "type --workdir={0}/w"),
    (f"pretrain {QUICK} workdir {{0}}/w", "type --workdir=DIR, with ="),
    (f"pretrain {QUICK} --workdir={{0}}/w config.seed=3", "type --config.seed=3"),
    ("pretrain --config.seed=1 --workdir={0}/w", "--config.seed needs a config"),
    ("features --workdir={0}/runs/run --images={0}/photos --output=f.npz", "did you mean --out?"),
    ("features --workdir={0}/runs/run --images={0}/photos", "needs --out: type --out=FILE"),
    ("predict --checkpoint={0}/runs/tuned --images={0}/photos", "did you mean --workdir?"),
    ("probe --workdir={0}/runs/run --folds=-1", "folds"),
    ("probe --workdir={0}/runs/run --count=many", "count"),
    ("convert {0}/mae.pth", "1 path was given, expected 2: type fastmim convert SOURCE DESTINATION"),
    ("convert {0}/mae.pth {0}/out --image_size=big", "--image_size is big"),
    # keys
    (
        f"pretrain {QUICK} --workdir={{0}}/w --config.batch_size=64",
        "did you mean --config.schedule.batch_size?",
    ),
    (f"pretrain {QUICK} --workdir={{0}}/w --config.data.pth=x", "did you mean --config.data.path?"),
    (
        f"pretrain {QUICK} --workdir={{0}}/w --config.optimizer.lr=1",
        "did you mean --config.optimizer.base_lr?",
    ),
    (
        f"pretrain {QUICK} --workdir={{0}}/w --config.method.maskratio=1",
        "did you mean --config.method.mask_ratio?",
    ),
    (
        f"pretrain {QUICK} --workdir={{0}}/w --config.schedule.epoch=1",
        "did you mean --config.schedule.epochs?",
    ),
    (f"finetune {TUNE} --workdir={{0}}/w --config.num_classes=3", "did you mean --config.model.classes?"),
    (f"pretrain {QUICK} --workdir={{0}}/w --config.seed=abc", "--config.seed=abc"),
    # values
    (
        f"pretrain {QUICK} --workdir={{0}}/w --config.method.mask_ratio=75",
        "--config.method.mask_ratio=0.75",
    ),
    (f"pretrain {QUICK} --workdir={{0}}/w --config.data.image_size=(64,)", "such as (128, 128)"),
    (f"pretrain {QUICK} --workdir={{0}}/w --config.method.dtype=float16", "--config.method.dtype=bfloat16"),
    (
        f"pretrain {QUICK} --workdir={{0}}/w --config.method.name=MAE",
        "did you mean --config.method.name=mae?",
    ),
    (
        f"pretrain {QUICK} --workdir={{0}}/w --config.method.name=mea",
        "did you mean --config.method.name=mae?",
    ),
    (f"pretrain {OWN} --workdir={{0}}/w --config.schedule.epochs=lots", "above 0, or auto"),
    # paths of data
    (f"pretrain {QUICK} --workdir={{0}}/w --config.data.path={{0}}/photo", "photo does not exist"),
    (
        f"pretrain {QUICK} --workdir={{0}}/w --config.data.path=s3://bucket/x",
        "needs the package s3fs: type",
    ),
    (f"pretrain {QUICK} --workdir={{0}}/w --config.data.path=$NOWHERE/x", "NOWHERE is not set"),
    (
        f"pretrain {QUICK} --workdir={{0}}/w --config.monitor.path={{0}}/none",
        "--config.monitor.path: The folder",
    ),
    ("features --workdir={0}/runs/run --images={0}/nothing --out=f.npz", "--images: The folder"),
    ("prepare {0}/nothing {0}/prepared", "nothing does not exist"),
    # paths of runs and checkpoints
    ("probe --workdir={0}/runs/rum", "did you mean {0}/runs/run?"),
    ("probe --workdir={0}/runs", "it holds the runs run, tuned"),
    ("probe --workdir={0}/runs/run/checkpoints/200", "has no checkpoint of step 200: choose from: 100"),
    ("probe --workdir={0}/mae.pth", "type fastmim convert {0}/mae.pth {0}/mae, and give that folder"),
    ("reconstruct --workdir={0}/photos", "photos has no config.json"),
    (f"finetune {TUNE} --workdir={{0}}/w --config.init={{0}}/runs/rnu", "did you mean {0}/runs/run?"),
    (
        f"pretrain {QUICK} --workdir={{0}}/runs/run/checkpoints/100",
        "type --workdir={0}/runs/run to resume it",
    ),
    ("convert {0}/runs/rnu {0}/out --to=timm", "did you mean {0}/runs/run?"),
]
assert len(COMMANDS) >= 60


@pytest.mark.parametrize(("typed", "answer"), COMMANDS, ids=[typed for typed, _ in COMMANDS])
def test_a_mistake_is_answered_in_one_sentence(capsys, place, typed, answer):
    message = refused(capsys, *(word.format(place) for word in typed.split()))
    assert answer.format(place) in message, message
    assert not (place / "w").exists()


PYTHON = [
    (lambda place: fastmim_jax.load(place / "runs" / "rnu"), "did you mean"),
    (
        lambda place: fastmim_jax.pretrain([np.zeros((4, 4, 3))], place / "w"),
        "expected the path of a folder",
    ),
    (
        lambda place: fastmim_jax.pretrain(place / "photos", place / "w", lr=1),
        "did you mean optimizer__base_lr?",
    ),
    (lambda place: fastmim_jax.pretrain(place / "none", place / "w"), "none does not exist"),
    (lambda place: fastmim_jax.pretrain(place / "empty", place / "w"), "empty"),
    (lambda place: fastmim_jax.pretrain(place / "texts", place / "w"), ".txt"),
    (
        lambda place: fastmim_jax.finetune(place / "photos", place / "w", model="vit_ti16"),
        "no class folders",
    ),
    (lambda place: fastmim_jax.finetune(place / "labelled", place / "w"), "config.init"),
    (
        lambda place: fastmim_jax.finetune(place / "labelled", place / "w", init=place / "none"),
        "none does not",
    ),
    (lambda place: fastmim_jax.create_model("vit_b61"), "choose from: vit_b16"),
    (lambda place: fastmim_jax.load_config("mae:vit_b61"), "did you mean vit_b16?"),
    (lambda place: fastmim_jax.open_dataset(place / "none"), "none does not exist"),
]


@pytest.mark.parametrize(("call", "answer"), PYTHON)
def test_a_mistake_in_python_is_answered_in_one_sentence(place, call, answer):
    with pytest.raises(UserError) as error:
        call(place)
    message = str(error.value)
    assert answer in message and "\n" not in message and "--config" not in message, message
    assert not (place / "w").exists()


def test_right_paths_pass(place):
    from fastmim_jax.cli.commands import COMMANDS
    from fastmim_jax.cli.parse import parse

    for name, words in {
        "pretrain": [QUICK, f"--workdir={place}/new", f"--config.data.path={place}/photos"],
        "probe": [f"--workdir={place}/runs/run/checkpoints/100", f"--images={place}/labelled"],
        "finetune": [TUNE, f"--workdir={place}/new", f"--config.init={place}/runs/run/"],
        "convert": [f"{place}/mae.pth", f"{place}/out"],
    }.items():
        check_inputs(name, COMMANDS[name], *parse(name, COMMANDS[name], words))
