"""Two real processes over the network, found as a Slurm job would be, against one."""

import json
import shutil
import signal
import socket
import time
from pathlib import Path

import numpy as np
import pytest

from fastmim_jax.__main__ import main
from helpers.labelled_images import tuning_config, untrained, write_images
from helpers.mask_files import write_folder
from helpers.processes import Run, finish, lines
from helpers.stripes import write_stripes

pytestmark = [pytest.mark.slow, pytest.mark.multiprocess, pytest.mark.usefixtures("one_device")]

ROOT = Path(__file__).parents[2]
CONFIG = """
import sys
sys.path.insert(0, {tests!r})
from helpers import small

def pretrain():
    config = small.config(steps=6)
    config.method.backbone.depth = 1
    config.data.eval_split = "test"
    config.run.update(checkpoint_every=3, eval_every=3, picture_every=6)
    return config

def finetune():
    config = small.tuning("sample")
    config.schedule.update(steps=4, batch_size=16)
    config.run.update(checkpoint_every=2, eval_epochs=2 * 16 / 4096, log_every=1)
    return config

def segment():
    config = small.segmenting({stripes!r}, steps=3)
    config.model.head.auxiliary_channels = 0
    config.run.update(baseline_images=2, pictures=1)
    return config

def wide():
    config = small.config({wide!r}, steps=2)
    config.method.backbone.depth = 1
    return config

def get_config(command):
    return globals()[command]()
"""


def metrics(workdir, name):
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [line[name] for line in lines if name in line]


def free_job():
    """A Slurm job number whose port, as JAX derives it, is free."""
    for job in range(700, 4000):
        with socket.socket() as probe:
            if probe.connect_ex(("localhost", job % 2**12 + (65535 - 2**12 + 1))):
                return job
    raise AssertionError("no free port")


def run_both(command, folder, *more, name=""):
    """Runs a command in two processes, in folder/command_two, and in this one, in folder/command_one.

    name: of the config in CONFIG, if it is not that of the command.
    """
    config = folder / "processes.py"
    config.write_text(
        CONFIG.format(tests=str(ROOT / "tests"), wide=str(folder / "wide"), stripes=str(folder / "stripes"))
    )
    one, two = folder / f"{command}_one", folder / f"{command}_two"
    flags = [command, f"--config={config}:{name or command}", *more]
    run_two(*flags, f"--workdir={two}")
    main([*flags, f"--workdir={one}"])
    return one, two


def run_two(*words):
    """Run a command in two processes -> what they printed."""
    job = dict(SLURM_JOB_ID=str(free_job()), SLURM_STEP_NODELIST="localhost", SLURM_NTASKS="2")
    runs = [
        Run([*words, "--distributed"], dict(job, SLURM_PROCID=rank, SLURM_LOCALID=rank)) for rank in "01"
    ]
    outputs = [finish(run).splitlines(keepends=True) for run in runs]
    noise = ("[Gloo]", "compiling", "compiled", "still compiling")
    return ["".join(line for line in lines if not line.startswith(noise)) for lines in outputs]


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    return run_both("pretrain", tmp_path_factory.mktemp("processes"))


def test_two_processes_train_as_one(pretrained):
    for name in ("loss", "eval_loss"):
        one, two = (metrics(workdir, name) for workdir in pretrained)
        np.testing.assert_allclose(two, one, rtol=1e-5)  # sums over the batch in another order
    two = pretrained[1]
    assert (two / "pictures" / "step_0000006.png").exists()
    assert {path.name for path in (two / "checkpoints").iterdir()} >= {"3", "6"}


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    """37 images: the batches of 16 of an evaluation end with one of 5."""
    folder = write_images(tmp_path_factory.mktemp("labelled"), 12)
    shutil.copy(folder / "red" / "00.png", folder / "red" / "one_more.png")
    return folder


def test_two_processes_write_the_features_of_one(pretrained, labelled, tmp_path):
    words = ["features", f"--workdir={pretrained[0]}", f"--images={labelled}"]
    said, silence = run_two(*words, f"--out={tmp_path / 'two.npz'}")
    main([*words, f"--out={tmp_path / 'one.npz'}"])
    one, two = (np.load(tmp_path / f"{name}.npz") for name in ("one", "two"))
    assert len(one["name"]) == 37 and "37 images" in said and silence == ""
    for name in ("name", "label", "classes"):
        np.testing.assert_array_equal(two[name], one[name])
    for name in set(one) - {"name", "label", "classes"}:
        np.testing.assert_allclose(two[name], one[name], rtol=1e-4, atol=1e-5)


@pytest.mark.exhaustive
def test_two_processes_probe_as_one(pretrained, labelled, tmp_path):
    words = ["probe", f"--workdir={pretrained[0]}", f"--images={labelled}", "--folds=3"]
    words.append("--kinds=ridge,knn,linear,attentive")
    said, silence = run_two(*words, f"--out={tmp_path / 'two.json'}")
    main([*words, f"--out={tmp_path / 'one.json'}"])
    one, two = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("one", "two"))
    assert one == two and "attentive" in said and silence == ""


@pytest.mark.exhaustive
def test_two_processes_segment_as_one(pretrained, tmp_path):
    write_folder(tmp_path / "data", 15)
    words = ["probe", f"--workdir={pretrained[0]}", f"--images={tmp_path / 'data'}"]
    words.append("--kinds=knn_segmentation")  # linear heads read the same features, for 200 steps
    said, silence = run_two(*words, f"--out={tmp_path / 'two.json'}")
    main([*words, f"--out={tmp_path / 'one.json'}"])
    one, two = (json.loads((tmp_path / f"{name}.json").read_text())["dense"] for name in ("one", "two"))
    assert "knn_segmentation" in said and silence == "" and len(one) == len(two) == 2
    for line, other in zip(one, two, strict=True):
        assert (line["kind"], line["layer"]) == (other["kind"], other["layer"])
        assert line["scores"]["pixels"] == pytest.approx(other["scores"]["pixels"], abs=2e-3)


@pytest.mark.exhaustive
def test_two_processes_evaluate_and_predict_as_one(labelled, tmp_path, capfd):
    config = tuning_config(labelled)
    workdir = untrained(config, tmp_path / "run", 37, ["blue", "green", "red"])
    flags = [f"--workdir={workdir}", f"--images={labelled}"]
    said, silence = run_two("evaluate", *flags, f"--out={tmp_path / 'two.csv'}")
    main(["evaluate", *flags, f"--out={tmp_path / 'one.csv'}"])
    assert silence == "" and "of 37 images" in said
    assert said.replace("two.csv", "one.csv") == capfd.readouterr().out
    assert (tmp_path / "two.csv").read_text() == (tmp_path / "one.csv").read_text()
    said, silence = run_two("predict", f"--workdir={workdir}", f"--images={labelled / 'red' / '00.png'}")
    assert silence == "" and len(said.splitlines()) == 1 and "red %" not in said


@pytest.mark.exhaustive
def test_two_processes_measure_together(tmp_path):
    config = tmp_path / "processes.py"
    config.write_text(CONFIG.format(tests=str(ROOT / "tests"), wide="", stripes=""))
    said, silence = run_two("bench", f"--config={config}:pretrain", f"--workdir={tmp_path / 'bench'}")
    (figures,) = json.loads((tmp_path / "bench" / "bench.json").read_text())
    assert figures["device"].startswith("2 ") and figures["reading_images_per_second"] > 0
    assert "step_seconds" in said and silence == ""


@pytest.mark.exhaustive
def test_two_processes_fine_tune_and_evaluate_as_one(pretrained, tmp_path):
    one, two = run_both("finetune", tmp_path, f"--config.init={pretrained[1]}")
    for name in ("loss", "eval_loss"):
        np.testing.assert_allclose(metrics(two, name), metrics(one, name), rtol=1e-5)
    found = [json.loads((workdir / "evaluation.json").read_text()) for workdir in (one, two)]
    assert found[0]["images"] == found[1]["images"] == 512
    assert found[0]["top1"] == found[1]["top1"] and found[0]["per_class"] == found[1]["per_class"]
    assert (two / "best").exists() and (two / "pictures" / "confusion.png").exists()


@pytest.fixture
def start(tmp_path):
    """-> start(*own flags of each process): two processes of an endless run that meet at a free port."""
    config = tmp_path / "processes.py"
    config.write_text(CONFIG.format(tests=str(ROOT / "tests"), wide="", stripes=""))

    def start(*own):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        workdir = tmp_path / f"run{port}"
        flags = [
            f"--config={config}:pretrain",
            f"--workdir={workdir}",
            "--config.schedule.steps=100000",
        ]
        flags += [
            "--config.run.eval_every=0",
            "--config.run.picture_every=0",
            "--config.run.checkpoint_every=0",
        ]
        flags += [f"--coordinator=127.0.0.1:{port}", "--processes=2", "--config.run.log_every=1"]
        runs = [Run(["pretrain", *flags, f"--process={i}", *more]) for i, more in enumerate(own)]
        return runs, workdir

    return start


def wait_for_step(runs, workdir, step):
    while not any(line["step"] >= step for line in lines(workdir)):
        assert all(run.running for run in runs), [run.output for run in runs]
        time.sleep(0.02)


def test_a_signal_to_one_process_stops_both_after_one_step(start):
    runs, workdir = start([], [])
    wait_for_step(runs, workdir, 5)
    runs[1].send(signal.SIGTERM)
    outputs = [finish(run, code=143) for run in runs]
    (saved,) = [path.name for path in (workdir / "checkpoints").iterdir()]
    assert f"stopped by SIGTERM after step {saved}: the current step is saved" in outputs[0]
    assert lines(workdir)[-1]["step"] == int(saved) and "Traceback" not in "".join(outputs)


@pytest.mark.exhaustive
def test_a_killed_process_ends_the_other_with_a_sentence(start):
    for killed in (0, 1):
        runs, workdir = start([], [])
        wait_for_step(runs, workdir, 1)
        runs[killed].send(signal.SIGKILL)
        output = finish(runs[1 - killed], code=1)
        assert f"fastmim: process {killed} on " in output and "ended without a word" in output
        assert "Traceback" not in output


@pytest.mark.exhaustive
def test_hosts_with_other_configs_do_not_start(start):
    runs, workdir = start([], ["--config.optimizer.base_lr=0.5"])
    for run in runs:
        assert "has config.optimizer.base_lr=0.5, process 0 on" in finish(run, code=2)
    assert not (workdir / "metrics.jsonl").exists()


@pytest.mark.exhaustive
def test_two_processes_measure_one_range_of_values(tmp_path):
    """The first one measures it, and the other takes it."""
    (tmp_path / "wide").mkdir()
    for number in range(16):
        values = np.random.default_rng(number).integers(100 * number, 200 * number + 500, (36, 40, 3))
        np.save(tmp_path / "wide" / f"{number:02}.npy", values.astype(np.uint16))
    one, two = run_both("pretrain", tmp_path, name="wide")
    for workdir in (one, two):
        data = json.loads((workdir / "config.json").read_text())["data"]
        assert (
            data["pixel_dtype"] == "uint16" and data["value_range"][0] < 100 < 3000 < data["value_range"][1]
        )
    assert (one / "config.json").read_text() == (two / "config.json").read_text()
    for name in ("loss", "clipped_share"):
        np.testing.assert_allclose(metrics(two, name), metrics(one, name), rtol=1e-5)


@pytest.mark.exhaustive
def test_two_processes_train_a_segmentation_as_one(tmp_path):
    """Losses, and the confusion of five evaluation images, of which one process has three."""
    write_stripes(tmp_path / "stripes")
    one, two = run_both("segment", tmp_path)
    np.testing.assert_allclose(metrics(two, "loss"), metrics(one, "loss"), rtol=1e-4)
    first, second = (json.loads((run / "evaluation.json").read_text()) for run in (one, two))
    assert first["images"] == second["images"] == 5 and abs(first["miou"] - second["miou"]) < 2e-3
