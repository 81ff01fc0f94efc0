"""Figures of the bench, of pre-training and of fine-tuning."""

import json

import jax
import pytest

from fastmim_jax.data import image_reader
from fastmim_jax.data.randaugment import RandAugment
from fastmim_jax.tools import bench as benches
from fastmim_jax.tools import read_cost, step_cost
from fastmim_jax.tools.bench import bench
from fastmim_jax.tools.hlo import CLASSES
from helpers import small
from helpers.commands import refused
from helpers.labelled_images import tuning_config, write_images

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_device")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("images"), 10)


@pytest.fixture(scope="module")
def benched(folder, tmp_path_factory):
    """(figures, options of the loader, the folder of bench.json)."""
    config, workdir, calls = tuning_config(folder), tmp_path_factory.mktemp("out"), []
    config.augment.update(magnitude=7.0, mixup=0.8)
    make = image_reader.make_loader

    def recorded(*args, **options):
        calls.append(options)
        return make(*args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "devices", jax.local_devices)
        patch.setattr(benches, "_reading_seconds", lambda batches: 0.5)
        patch.setattr(read_cost, "RECORDS", 8)
        patch.setattr(step_cost, "peak_flops", lambda kind: 1e12)
        patch.setattr(image_reader, "make_loader", recorded)
        (figures,) = bench(config, workdir)
    return figures, calls, workdir


def test_the_figures_of_fine_tuning_are_consistent(benched):
    figures, _, workdir = benched
    assert figures["images_per_second"] == pytest.approx(16 / figures["step_seconds"])
    gflops = figures["training_gflops_per_image"]
    assert figures["tflops"] == pytest.approx(gflops * figures["images_per_second"] / 1e3)
    assert figures["mfu"] == pytest.approx(figures["tflops"] / 8)  # of 8 devices with 1 TFLOP/s each
    assert figures["reading_images_per_second"] == 32
    parts = [figures[f"{part}_ms"] for part in ("read", "decode", "crop", "augment", "copy", "transfer")]
    assert min(parts) >= 0 and figures["augment_ms"] > 0
    assert figures["reading_images_per_second_and_core"] == pytest.approx(1e3 / sum(parts))
    expected = "reading" if figures["step_seconds"] < 0.5 else "the training step"
    assert figures["bottleneck"] == expected
    assert not any("hog" in name for name in figures)
    assert figures["tracing_seconds"] > 0 and figures["planned_memory_gib"] > 0
    assert ("compile_seconds" in figures) != ("reading_compiled_step_seconds" in figures)
    assert json.loads((workdir / "bench.json").read_text()) == [figures]


def test_flops_are_those_of_the_classifier(benched):
    """A ViT of width 32: 16 patches of 8 x 8 and a cls token, 2 blocks, 3 classes; backward costs twice."""
    figures, *_ = benched
    tokens, width = 17, 32
    block = 2 * tokens * width * (3 + 1 + 4 + 4) * width + 2 * 2 * tokens**2 * width
    forward = 2 * 16 * (8 * 8 * 3) * width + 2 * block + 2 * width * 3
    assert figures["training_gflops_per_image"] == pytest.approx(3 * forward / 1e9)


def test_reading_is_measured_with_randaugment(benched):
    _, (options,), _ = benched
    assert isinstance(options["augment"], RandAugment) and options["augment"].magnitude == 7
    assert options["batch_size"] == 16


def test_without_the_peak_of_the_device_there_is_no_mfu(monkeypatch, folder, capsys):
    monkeypatch.setattr(benches, "_reading_seconds", lambda batches: 1e-9)
    (figures,) = bench(tuning_config(folder))
    assert "mfu" not in figures and figures["bottleneck"] == "the training step"
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in printed] == list(figures)


def test_a_classifier_without_backbone_or_classes_is_refused(capsys, folder):
    words = ["bench", "--config=configs/finetune.py"]
    assert "backbone.name is unset" in refused(capsys, *words, f"--config.data.path={folder}")
    assert "no class folders" in refused(capsys, *words, f"--config.data.path={folder / 'red'}")


def test_the_figures_of_pretraining_include_hog(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(benches, "_reading_seconds", lambda batches: 0.5)
    (figures,) = bench(small.config(), tmp_path)
    assert figures["hog_share_of_step"] > 0 and figures["images_per_second"] > 0
    assert figures["reading_images_per_second"] == 32
    assert (tmp_path / "bench.json").exists() and "hog_share_of_step" in capsys.readouterr().out


@pytest.mark.parametrize("config", [small.config, lambda: tuning_config("no/such/folder")])
def test_synthetic_data_and_a_profile(tmp_path, config, capsys):
    (figures,) = bench(config(), tmp_path, synthetic=True, profile=True)
    assert not any("reading_images" in name for name in figures) and "bottleneck" not in figures
    assert {"products", "optimizer"} <= set(figures["kernel_seconds"]) <= set(CLASSES)
    assert figures["top_kernels"][0]["seconds"] > 0
    assert json.loads((tmp_path / "bench.json").read_text()) == [figures]
    assert "kernels of one step" in capsys.readouterr().out
