"""What the bench tells of a fine-tuning config; of pre-training see test_reconstruct.py."""

import json

import pytest

from fastmim_jax.data import image_reader
from fastmim_jax.data.randaugment import RandAugment
from fastmim_jax.tools import bench as benches
from fastmim_jax.tools.bench import bench
from helpers.commands import refused
from helpers.labelled_images import tuning_config, write_images


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("images"), 10)


@pytest.fixture(scope="module")
def benched(folder, tmp_path_factory):
    """(figures, what the loader was given, the folder of bench.json)."""
    config, workdir, given = tuning_config(folder), tmp_path_factory.mktemp("out"), []
    config.augment.update(magnitude=7.0, mixup=0.8)
    make = image_reader.make_loader

    def noted(*args, **options):
        given.append(options)
        return make(*args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(benches, "_reading_seconds", lambda batches: 0.5)
        patch.setattr(benches, "peak_flops", lambda kind: 1e12)
        patch.setattr(image_reader, "make_loader", noted)
        (found,) = bench(config, workdir)
    return found, given, workdir


def test_the_figures_of_fine_tuning_fit_together(benched):
    found, _, workdir = benched
    assert found["images_per_second"] == pytest.approx(16 / found["step_seconds"])
    gflops = found["training_gflops_per_image"]
    assert found["tflops"] == pytest.approx(gflops * found["images_per_second"] / 1e3)
    assert found["mfu"] == pytest.approx(found["tflops"] / 8)  # of 8 devices with 1 TFLOP/s each
    assert found["reading_images_per_second"] == 32
    assert found["binds"] == ("reading" if found["step_seconds"] < 0.5 else "the step")
    assert not any("hog" in name for name in found)
    assert json.loads((workdir / "bench.json").read_text()) == [found]


def test_flops_are_those_of_the_classifier(benched):
    """A ViT 32 wide: 16 patches of 8 x 8 and a cls token, 2 blocks, 3 classes; backward is twice that."""
    found, *_ = benched
    tokens, width = 17, 32
    block = 2 * tokens * width * (3 + 1 + 4 + 4) * width + 2 * 2 * tokens**2 * width
    forward = 2 * 16 * (8 * 8 * 3) * width + 2 * block + 2 * width * 3
    assert found["training_gflops_per_image"] == pytest.approx(3 * forward / 1e9)


def test_reading_is_measured_with_randaugment(benched):
    _, (options,), _ = benched
    assert isinstance(options["augment"], RandAugment) and options["augment"].magnitude == 7
    assert options["batch_size"] == 16


def test_where_the_peak_is_not_known_there_is_no_mfu(monkeypatch, folder, capsys):
    monkeypatch.setattr(benches, "_reading_seconds", lambda batches: 1e-9)
    (found,) = bench(tuning_config(folder))
    assert "mfu" not in found and found["binds"] == "the step"
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in printed] == list(found)


def test_a_classifier_without_backbone_or_classes_is_refused(capsys, folder):
    words = ["bench", "--config=configs/finetune.py"]
    assert "backbone.name is not set" in refused(capsys, *words, f"--config.data.path={folder}")
    assert "no class folders" in refused(capsys, *words, f"--config.data.path={folder / 'red'}")
