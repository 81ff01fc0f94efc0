"""The contact sheet: the images of the first training batch, and the shares of their classes."""

import jax
import numpy as np
import pytest
from PIL import Image

from fastmim_jax.__main__ import main
from fastmim_jax.config import finetune_config
from fastmim_jax.data.mixing import soft_targets
from fastmim_jax.draw import style
from fastmim_jax.errors import UserError
from fastmim_jax.tools import contact_sheet
from fastmim_jax.tools.contact_sheet import class_shares, show_batch, unsmoothed
from fastmim_jax.train.pretrain import make_pretrain_stage
from fastmim_jax.train.stage import open_training_data
from helpers import small
from helpers.labelled_images import tuning_config, write_images

PURE = {"blue": (0, 0, 255), "green": (0, 255, 0), "red": (255, 0, 0)}


@pytest.fixture(scope="module")
def pure(tmp_path_factory):
    """Images of one colour, unchanged by crops and flips."""
    return write_images(tmp_path_factory.mktemp("pure"), 10, PURE, noise=0)


def sheet(monkeypatch, config, path="x.png"):
    """Return (images in [0, 1], captions, footer) of the sheet."""
    drawn = []
    with monkeypatch.context() as patch:
        patch.setattr(contact_sheet, "_sheet", lambda *args: drawn.extend(args))
        patch.setattr(contact_sheet, "save_png", lambda image, path: path)
        show_batch(config, path)
    return drawn


@pytest.mark.slow
def test_pretraining_shows_the_first_crops_of_the_run(monkeypatch):
    config = small.config(batch_size=64)
    config.data.mean, config.data.std = (0.2, 0.5, 0.7), (0.1, 0.2, 0.3)
    images, captions, footer = sheet(monkeypatch, config)
    source = open_training_data(config)
    stage = make_pretrain_stage(config, len(source), jax.devices()[:1])
    with stage.loader(source, batch_size=64, seed=config.seed) as loader:
        batch = next(iter(loader))
    mirrored = np.where(batch["flip"][:, None, None, None], batch["image"][:, :, ::-1], batch["image"])
    assert 0 < batch["flip"][:24].sum() < 24
    np.testing.assert_allclose(images, mirrored[:24] / 255, atol=1e-6)
    assert captions == [[]] * 24
    assert "first 24 of a batch of 64" in footer[0] and "20% to 100%" in footer[1]


def test_without_mixing_there_is_one_class_below_each_picture(monkeypatch, pure):
    images, captions, _ = sheet(monkeypatch, tuning_config(pure))
    assert {name for ((name, _),) in captions} == set(PURE)
    for image, ((name, share),) in zip(images, captions, strict=True):
        assert share == pytest.approx(1)
        colour = np.broadcast_to(np.array(PURE[name]) / 255, image.shape)
        np.testing.assert_allclose(image, colour, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_shares_of_classes_are_those_of_their_colours(monkeypatch, pure, kind):
    config = tuning_config(pure)
    config.augment.update({kind: 1.0, "mix_groups": 4, "label_smoothing": 0.2})
    config.schedule.batch_size = 24
    images, captions, footer = sheet(monkeypatch, config)
    assert "groups of 6" in footer[2] and len(set(map(tuple, captions))) > 4
    for image, caption in zip(images, captions, strict=True):
        mean, shares = image.mean((0, 1)), dict(caption)
        for name, colour in PURE.items():
            assert mean @ np.array(colour) / 255 == pytest.approx(shares.get(name, 0), abs=0.006)
        if kind == "cutmix":
            np.testing.assert_allclose(np.sort(image, axis=-1)[..., -1], 1, atol=1e-5)
    assert any(len(caption) == 2 for caption in captions)


def test_class_shares():
    classes = ("cat", "dog", "owl")
    assert class_shares(np.array([0.63, 0.37, 0]), classes) == [("cat", 0.63), ("dog", 0.37)]
    assert class_shares(np.array([0.2, 0, 0.8]), classes) == [("owl", 0.8), ("cat", 0.2)]
    assert class_shares(np.array([1e-4, 0.9999, 0]), classes) == [("dog", 0.9999)]


def test_captions_are_one_line_or_one_per_class():
    font = style.font(14)

    def lines(*shares, width=200):
        return contact_sheet._caption_lines(shares, font, width)

    assert lines() == [] and lines(("cat", 0.999)) == ["cat"]
    assert lines(("cat", 0.63), ("dog", 0.37)) == ["cat 63 % + dog 37 %"]
    assert lines(("cat", 0.63), ("dog", 0.37), width=80) == ["cat 63 %", "dog 37 %"]


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
def test_unsmoothed_inverts_label_smoothing(smoothing):
    labels = np.array([2, 0, 1])
    smoothed = np.asarray(soft_targets(labels, 5, smoothing))
    np.testing.assert_allclose(unsmoothed(smoothed, smoothing), np.eye(5)[labels], atol=1e-6)
    np.testing.assert_array_equal(unsmoothed(np.full((1, 5), 0.2), 1), np.full((1, 5), 0.2))


@pytest.mark.parametrize(
    ("largest", "count", "groups"), [(1, 24, 1), (8, 24, 6), (32, 24, 12), (2, 16, 2), (4, 15, 1)]
)
def test_mix_groups_are_even_and_divide_the_images(largest, count, groups):
    assert contact_sheet._mix_groups(largest, count) == groups


@pytest.mark.slow
def test_published_recipes_need_no_backbone_and_one_device(tmp_path, monkeypatch, pure):
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


def test_a_page_has_rows_of_six_and_space_for_captions(monkeypatch):
    images = np.linspace(0, 1, 8 * 32 * 32 * 3).reshape(8, 32, 32, 3)
    owl = [("owl", 1.0)]
    long = [("great grey owl, Strix nebulosa", 0.63), ("sulphur-crested cockatoo, Kakatoe galerita", 0.37)]
    pages = [
        contact_sheet._sheet(images, captions, ["footer"])
        for captions in ([[]] * 8, [owl] * 8, [long, *[owl] * 7])
    ]
    assert pages[0].height < pages[1].height < pages[2].height
    bare, captioned = (np.asarray(page)[24 : 24 + 300] for page in pages[:2])
    assert (captioned != bare).any()
    few = contact_sheet._sheet(images[:2], [[]] * 2, [])
    assert few.width == 2 * 24 + 2 * 256 + 14


@pytest.mark.slow
def test_the_command_draws_pretraining_and_finetuning(capsys, tmp_path, pure):
    words = [f"--config.data.path={pure}", "--config.schedule.batch_size=6"]
    for config in ("quickstart.py", "finetune.py"):
        path = tmp_path / f"{config}.png"
        main(["bench", f"--config=configs/{config}", f"--show_batch={path}", *words])
        assert capsys.readouterr().out.strip() == str(path) and Image.open(path).width > 1000


def test_images_without_classes_are_refused(tmp_path, pure):
    with pytest.raises(UserError, match="no class folders"):
        show_batch(tuning_config(pure / "red"), tmp_path / "x.png")
    assert not list(tmp_path.iterdir())
