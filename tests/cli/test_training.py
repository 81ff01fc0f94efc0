"""The commands that train take configs of their own kind, and others tell segmentations apart."""

import pytest

from fastmim_jax.__main__ import main
from fastmim_jax.cli.training import check_config, check_measurable, is_segmentation
from fastmim_jax.errors import UserError
from fastmim_jax.recipes import list_configs, load_config
from fastmim_jax.saved_config import kind_of
from fastmim_jax.stages import AUTO
from fastmim_jax.train import pretrain, supervised
from helpers import mask_files, small
from helpers.sweeps import thin


def test_a_config_of_another_kind_is_refused_with_its_command():
    for config, kind in (
        (small.config(), "pretrain"),
        (small.tuning(), "finetune"),
        (small.segmenting(), "segment"),
    ):
        assert check_config(config, kind) is config
        other = "segment" if kind == "finetune" else "finetune"
        with pytest.raises(UserError, match=f"type fastmim {kind} with it"):
            check_config(config, other)
    assert check_measurable(small.tuning())
    with pytest.raises(UserError, match="bench and plan measure"):
        check_measurable(small.segmenting())


def test_runs_of_segmentation_are_known_by_their_config(tmp_path):
    for name, config in (("s", small.segmenting()), ("f", small.tuning())):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(config.to_json())
        assert is_segmentation(str(tmp_path / name), None) == (name == "s")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """{kind of training: a folder that it can read}."""
    root = tmp_path_factory.mktemp("images")
    small.write_images(root / "photos", 16)
    classes = small.write_classes(root / "classes", train=(4, 4), val=(1, 1))
    for split in ("train", "val"):
        mask_files.write_folder(root / "masks", images=f"images/{split}", masks=f"masks/{split}")
    return {"pretrain": root / "photos", "finetune": classes, "segment": root / "masks"}


class BuildsTheState(Exception):
    """A command has built method or model, reader and plan from its config."""


@pytest.mark.parametrize("name", thin(list_configs(), 15))
def test_every_config_passes_its_command_up_to_the_state(monkeypatch, tmp_path, images, name):
    """With the flags locking the config, as nothing but a command does."""

    def stop(*words):
        raise BuildsTheState

    for module in (pretrain, supervised):
        monkeypatch.setattr(module, "abstract_state", stop)
    config = load_config(name)
    kind = kind_of(config)
    changes = [f"--config.data.path={images[kind]}"]
    if config.schedule.epochs != AUTO:
        changes += ["--config.schedule.steps=30"]  # of 16 images, some stages would have none
    if kind != "pretrain" and not config.model.backbone.name:  # those of config.init, which is not given
        changes += ["--config.model.backbone.name=vit_ti16", "--config.data.image_size=(64,64)"]
    with pytest.raises(BuildsTheState):
        main([kind, f"--config={name}", f"--workdir={tmp_path / 'w'}", *changes])
