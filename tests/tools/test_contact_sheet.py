"""The contact sheet: the pictures that training would see, and true shares of classes below them."""

import re

import jax
import numpy as np
import pytest
from PIL import Image

from fastmim_jax.__main__ import main
from fastmim_jax.config import finetune_config
from fastmim_jax.data.mixing import soft_targets
from fastmim_jax.errors import UserError
from fastmim_jax.tools.draw import contact_sheet
from fastmim_jax.tools.draw.contact_sheet import mixture, show_batch, unsmoothed
from fastmim_jax.train.pretrain import make_pretrain_stage
from fastmim_jax.train.stage import open_training_data
from helpers import small
from helpers.labelled_images import tuning_config, write_images

PURE = {"blue": (0, 0, 255), "green": (0, 255, 0), "red": (255, 0, 0)}


@pytest.fixture(scope="module")
def pure(tmp_path_factory):
    """Images of one colour, which every crop and flip leaves as they are."""
    return write_images(tmp_path_factory.mktemp("pure"), 10, PURE, noise=0)


def sheet(monkeypatch, config, path="x.png"):
    """(images in [0, 1], captions, footer) of what would be drawn."""
    drawn = []
    with monkeypatch.context() as patch:
        patch.setattr(contact_sheet, "_sheet", lambda *args: drawn.extend(args))
        patch.setattr(contact_sheet, "save_png", lambda image, path: path)
        show_batch(config, path)
    return drawn


def shares(caption):
    """{"cat": 0.63, "dog": 0.37} of a caption."""
    found = re.findall(r"(\w+) (\d+) %", caption)
    return {name: int(share) / 100 for name, share in found} or {caption: 1.0}


def test_pretraining_shows_the_first_crops_of_the_run(monkeypatch):
    config = small.config(batch_size=64)
    config.data.mean, config.data.std = (0.2, 0.5, 0.7), (0.1, 0.2, 0.3)
    images, captions, footer = sheet(monkeypatch, config)
    source = open_training_data(config)
    run = make_pretrain_stage(config, len(source), jax.devices()[:1])
    with run.loader(source, batch_size=64, seed=config.seed) as loader:
        batch = next(iter(loader))
    mirrored = np.where(batch["flip"][:, None, None, None], batch["image"][:, :, ::-1], batch["image"])
    assert 0 < batch["flip"][:24].sum() < 24
    np.testing.assert_allclose(images, mirrored[:24] / 255, atol=1e-6)
    assert captions == [""] * 24 and "first 24 of a batch of 64" in footer and "20% to 100%" in footer


def test_without_mixing_there_is_one_class_below_each_picture(monkeypatch, pure):
    images, captions, _ = sheet(monkeypatch, tuning_config(pure))
    assert set(captions) == set(PURE)
    for image, caption in zip(images, captions, strict=True):
        np.testing.assert_allclose(
            image, np.broadcast_to(np.array(PURE[caption]) / 255, image.shape), atol=1e-5
        )


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_shares_below_are_those_of_the_colours(monkeypatch, pure, kind):
    config = tuning_config(pure)
    config.augment.update({kind: 1.0, "mix_groups": 4, "label_smoothing": 0.2})
    config.schedule.batch_size = 24
    images, captions, footer = sheet(monkeypatch, config)
    assert "groups of 6" in footer and len({caption for caption in captions}) > 4
    for image, caption in zip(images, captions, strict=True):
        found = shares(caption)
        mean = image.mean((0, 1))
        for name, colour in PURE.items():
            # The caption is rounded to a percent; mixup mixes pixels, cutmix areas of them.
            assert mean @ np.array(colour) / 255 == pytest.approx(found.get(name, 0), abs=0.006)
        if kind == "cutmix":
            np.testing.assert_allclose(np.sort(image, axis=-1)[..., -1], 1, atol=1e-5)
    assert any(" + " in caption for caption in captions)


def test_shares_in_words():
    classes = ("cat", "dog", "owl")
    assert mixture(np.array([0.63, 0.37, 0]), classes) == "cat 63 % + dog 37 %"
    assert mixture(np.array([0.2, 0, 0.8]), classes) == "owl 80 % + cat 20 %"
    assert mixture(np.array([1e-4, 0.9999, 0]), classes) == "dog"


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
def test_smoothing_is_taken_back(smoothing):
    labels = np.array([2, 0, 1])
    smoothed = np.asarray(soft_targets(labels, 5, smoothing))
    np.testing.assert_allclose(unsmoothed(smoothed, smoothing), np.eye(5)[labels], atol=1e-6)
    np.testing.assert_array_equal(unsmoothed(np.full((1, 5), 0.2), 1), np.full((1, 5), 0.2))


@pytest.mark.parametrize(
    ("wanted", "count", "found"), [(1, 24, 1), (8, 24, 6), (32, 24, 12), (2, 16, 2), (4, 15, 1)]
)
def test_groups_are_as_many_as_fit_and_even(wanted, count, found):
    assert contact_sheet._groups(wanted, count) == found


def test_published_recipes_need_no_backbone_and_no_device_but_one(tmp_path, monkeypatch, pure):
    config = finetune_config()
    config.data.update(path=str(pure), image_size=(40, 24), channels=1)
    config.augment.update(mix_groups=8, repeated_augmentation=3)
    config.schedule.update(batch_size=1024, accumulation=8)
    config.run.mesh_fsdp = 8
    before = config.to_json()
    assert show_batch(config, tmp_path / "new" / "x.png") == tmp_path / "new" / "x.png"
    assert config.to_json() == before
    page = Image.open(tmp_path / "new" / "x.png")
    # Six columns of 256-high pictures, at least 200 wide, and four rows with captions.
    assert page.width == 2 * 24 + 6 * 200 + 5 * 14 and page.height > 4 * 256 + 4 * 14


def test_a_page_has_rows_of_six_and_room_for_what_is_said(monkeypatch):
    images = np.linspace(0, 1, 8 * 32 * 32 * 3).reshape(8, 32, 32, 3)
    long = "great grey owl, Strix nebulosa 63 % + sulphur-crested cockatoo, Kakatoe galerita 37 %"
    pages = [
        contact_sheet._sheet(images, captions, "footer")
        for captions in ([""] * 8, ["owl"] * 8, [long, *["owl"] * 7])
    ]
    assert pages[0].height < pages[1].height < pages[2].height
    bare, said = (np.asarray(page)[24 : 24 + 300] for page in pages[:2])
    assert (said != bare).any()
    few = contact_sheet._sheet(images[:2], [""] * 2, "")
    assert few.width == 2 * 24 + 2 * 256 + 14


def test_the_command_draws_either_kind(capsys, tmp_path, pure):
    words = [f"--config.data.path={pure}", "--config.schedule.batch_size=6"]
    for config in ("quickstart.py", "finetune.py"):
        path = tmp_path / f"{config}.png"
        main(["bench", f"--config=configs/{config}", f"--show_batch={path}", *words])
        assert capsys.readouterr().out.strip() == str(path) and Image.open(path).width > 1000


def test_images_without_classes_are_refused(tmp_path, pure):
    with pytest.raises(UserError, match="no class folders"):
        show_batch(tuning_config(pure / "red"), tmp_path / "x.png")
    assert not list(tmp_path.iterdir())
