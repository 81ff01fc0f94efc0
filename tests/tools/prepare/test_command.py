"""`fastmim prepare`: no record is lost, and files, labels, names and facts are right."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage.data import chelsea

from fastmim_jax.data.decode import read_image
from fastmim_jax.data.loader import make_loader
from fastmim_jax.data.sources import open_source, split_names
from fastmim_jax.errors import UserError
from fastmim_jax.evaluate.probe import probe
from fastmim_jax.tools.prepare import shards
from fastmim_jax.tools.prepare.command import prepare
from fastmim_jax.tools.prepare.shards import load_facts
from helpers.labelled_images import pretrained, write_images, write_splits

EACH = 7


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """train/ and test/ with 3 classes, and a broken file in each."""
    return write_splits(tmp_path_factory.mktemp("data") / "images", EACH, 2)


@pytest.fixture
def small_shards(monkeypatch):
    monkeypatch.setattr(shards, "MIN_RECORDS", 4)


def run(source, destination, *, workers=1, **options):
    return prepare(str(source), destination and str(destination), workers=workers, **options)


def tree(folder):
    """Return {path: bytes} of all files."""
    return {
        str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def psnr(a, b):
    return 10 * np.log10(255**2 / max(np.mean((a.astype(float) - b) ** 2), 1e-9))


@pytest.mark.parametrize(("layout", "least"), [("raw", 80), ("yuv420", 18), ("jpeg", 18)])
def test_every_record_label_class_name_and_split_is_kept(
    images, small_shards, tmp_path, layout, least, capsys
):
    assert run(images, tmp_path / "out", layout=layout) == 0
    assert split_names(tmp_path / "out") == split_names(images)
    for split in split_names(images):
        before, after = open_source(images, split), open_source(tmp_path / "out", split)
        readable = [i for i in range(len(before)) if "broken" not in before.name(i)]
        assert len(after) == len(readable) == len(before) - 1 and after.classes == before.classes
        for new, old in enumerate(readable):
            assert before.name(old).endswith(after.name(new)) and after.label(new) == before.label(old)
            assert psnr(read_image(after, new), read_image(before, old)) > least  # the images are noise
    assert "1 of 22 files cannot be read and are left out:\n    train/red/broken.png: no image" in (
        capsys.readouterr().out
    )


def test_workers_and_reruns_change_no_byte(images, small_shards, tmp_path, capsys):
    run(images, tmp_path / "a")
    assert not (tmp_path / "a" / ".unfinished").exists()
    before = tree(tmp_path / "a")
    assert run(images, tmp_path / "a") == 0 and tree(tmp_path / "a") == before
    assert "finished already; nothing to do" in capsys.readouterr().out
    (tmp_path / "a" / "test" / "chunks.npy").unlink()  # as earlier versions left it
    assert run(images, tmp_path / "a") == 0 and tree(tmp_path / "a") == before
    assert "finished already; added the positions of its records" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.multiprocess
def test_worker_processes_write_the_same_bytes(images, small_shards, tmp_path):
    run(images, tmp_path / "a")
    run(images, tmp_path / "b", workers=3)
    assert tree(tmp_path / "a") == tree(tmp_path / "b")


def test_facts(images, small_shards, tmp_path):
    run(images, tmp_path / "out", layout="raw")
    source = open_source(tmp_path / "out", "test")
    pixels = np.concatenate([read_image(source, i).reshape(-1, 3) for i in range(len(source))]) / 255
    facts = source.facts
    assert np.allclose(facts.mean, pixels.mean(0), atol=1e-6)
    assert np.allclose(facts.std, pixels.std(0), atol=1e-6)
    assert np.allclose(facts.lowest, pixels.min(0) * 255) and np.allclose(
        facts.highest, pixels.max(0) * 255
    )
    assert facts.records_per_class == {"blue": 2, "green": 2, "red": 2} and facts.unlabelled == 0
    assert facts.height.min == facts.height.max == 32 and len(facts.shards) == 2
    assert [item.name for item in facts.unreadable] == ["test/red/broken.png"]


def test_images_shrink_once_and_never_grow(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    sizes = {"a.png": (40, 20), "b.png": (9, 90), "c.jpg": (8, 8), "d.jpg": (30, 60)}
    for name, size in sizes.items():
        Image.new("RGB", size, (200, 30, 60)).save(folder / name)
    upright = Image.new("RGB", (8, 16))
    upright.save(folder / "e.jpg", exif=orientation(6))
    run(folder, tmp_path / "out", short_side=10)
    source = open_source(tmp_path / "out")
    found = {source.name(i): read_image(source, i).shape[:2] for i in range(len(source))}
    assert found == {
        "a.png": (10, 20),
        "b.png": (90, 9),
        "c.jpg": (8, 8),
        "d.jpg": (20, 10),
        "e.jpg": (8, 16),
    }
    assert source[2] == (folder / "c.jpg").read_bytes() and source.facts.copied == 1
    assert not source.classes


def orientation(value):
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


def test_arrays_of_any_kind_keep_their_bits(tmp_path):
    for dtype, channels, options in [
        ("uint8", 5, {}),
        ("uint16", 2, {}),
        ("float32", 4, {"value_range": ["-2", "3"]}),
    ]:
        folder = tmp_path / dtype
        folder.mkdir()
        arrays = [np.random.default_rng(i).random((6 + i, 5, channels)) * 5 - 2 for i in range(3)]
        if dtype != "float32":
            arrays = [(array + 2) * 50 for array in arrays]
        for i, array in enumerate(arrays):
            np.save(folder / f"{i}.npy", array.astype(dtype))
        run(folder, tmp_path / f"{dtype}_out", layout="raw", channels=channels, **options)
        source = open_source(tmp_path / f"{dtype}_out")
        for i, array in enumerate(arrays):
            stored = getattr(source[i], "values", source[i])
            assert stored.dtype == dtype and np.array_equal(stored, array.astype(dtype))
        assert read_image(source, 0, channels).dtype == np.uint8


def test_wide_images_shrink_in_their_own_dtype(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    ramp = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    Image.fromarray(ramp).save(folder / "a.png")
    np.save(folder / "b.npy", np.zeros((64, 64, 1), np.uint8))
    run(folder, tmp_path / "out", layout="raw", channels=1, short_side=16)
    source = open_source(tmp_path / "out")
    assert source[0].shape == (16, 16, 1) and source[0].dtype == np.uint16 and len(source) == 1
    mean = ramp.reshape(16, 4, 16, 4).mean((1, 3))
    assert abs(source[0][2:-2, 2:-2, 0].astype(float) - mean[2:-2, 2:-2]).max() < 40  # of 65,535
    assert source.facts.unreadable[0].reason == "has values of uint8, expected uint16 as in the first image"


def test_check_only_scans(images, tmp_path, capsys):
    assert run(images, tmp_path / "out", check=True) == 1 and not (tmp_path / "out").exists()
    scanned = capsys.readouterr().out
    run(images, tmp_path / "out")
    written = capsys.readouterr().out
    assert "broken.png" in scanned and "--config.data.mean=" in scanned
    assert [line for line in scanned.splitlines() if line not in written.splitlines()] == [
        "train: 21 images, 3 classes",
        "test: 6 images, 3 classes",
    ]
    fine = write_images(tmp_path / "fine", 1)
    assert run(fine, None, check=True) == 0


def test_a_prepared_data_set_can_be_prepared_again(images, tmp_path):
    run(images, tmp_path / "raw", layout="raw", splits=["train"])
    run(tmp_path / "raw", tmp_path / "yuv", layout="yuv420")
    first, second = open_source(tmp_path / "raw"), open_source(tmp_path / "yuv")
    assert len(first) == len(second) and first.name(3) == second.name(3)
    assert split_names(tmp_path / "raw") == ("train",)


def test_several_data_sets_become_one(tmp_path):
    both = f"{write_images(tmp_path / 'a', 2)}::{write_images(tmp_path / 'b', 1)}"
    run(both, tmp_path / "out")
    before, after = open_source(both), open_source(tmp_path / "out")
    assert len(after) == 9 and after.classes == before.classes and after.name(8) == "2/red/00.png"
    assert before.name(8) == str(tmp_path / "b" / "red" / "00.png")
    assert [after.label(i) for i in range(9)] == [before.label(i) for i in range(9)]


def test_settings_are_compared_and_files_that_are_not_ours_stay(images, small_shards, tmp_path):
    run(images, tmp_path / "out", splits=["test"])
    before = tree(tmp_path / "out")
    with pytest.raises(UserError, match=r"prepared with --format=jpeg \(now raw\): use"):
        run(images, tmp_path / "out", layout="raw", splits=["test"])
    with pytest.raises(UserError, match=r"--splits=test \(now train,test\)"):
        run(images, tmp_path / "out")
    assert tree(tmp_path / "out") == before
    (tmp_path / "begun" / ".unfinished").mkdir(parents=True)  # killed before anything was written
    run(images, tmp_path / "begun", splits=["test"])
    assert tree(tmp_path / "begun") == before
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="not empty and was not written by .* nothing was changed"):
        run(images, foreign)
    assert tree(foreign) == {"thesis.tex": b"years of work"}


def test_images_that_were_added_later_are_noticed(tmp_path):
    folder = write_images(tmp_path / "images", 2)
    run(folder, tmp_path / "out")
    Image.new("RGB", (32, 32)).save(folder / "red" / "new.png")
    with pytest.raises(UserError, match=r"6 records in train \(now 7\)"):
        run(folder, tmp_path / "out")


def test_an_unfinished_folder_resumes_only_with_its_settings(
    images, small_shards, tmp_path, monkeypatch, capsys
):
    def interrupt(self, *_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shards.ShardWriter, "_name", interrupt)
        assert run(images, tmp_path / "out") == 130
    assert "rerun the same command to resume" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"--short_side=256 \(now 16\)"):
        run(images, tmp_path / "out", short_side=16)
    with pytest.raises(UserError, match="has not ended"):
        open_source(tmp_path / "out")
    settings = tmp_path / "out" / ".unfinished" / "settings.json"
    content = json.loads(settings.read_text())
    settings.write_text(json.dumps(content | {"libraries": content["libraries"] | {"pillow": "1.0"}}))
    with pytest.raises(UserError, match=r"prepared with pillow 1.0 \(now "):
        run(images, tmp_path / "out")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layout": "png"}, "--format is png; choose from: jpeg, yuv420, raw"),
        ({"layout": "raw", "quality": 80}, "--quality=80 with --format=raw"),
        ({"quality": 101}, "from 1 to 100"),
        ({"channels": 4}, "--channels=4, but jpeg stores 1 or 3: type --format=raw"),
        ({"channels": 1, "layout": "yuv420"}, "yuv420 stores 3"),
        ({"value_range": ["0", "1"]}, "--value_range is for --format=raw, not jpeg"),
        ({"value_range": ["1", "0"], "layout": "raw"}, "--value_range=1,0: expected"),
        ({"value_range": ["nan", "0"], "layout": "raw"}, "--value_range=nan,0: expected"),
        ({"splits": ["val"]}, "--splits=val names val, but .* has the splits train, test"),
        ({"channels": 7, "layout": "raw"}, "read with --channels=7"),
    ],
)
def test_settings_that_make_no_sense(images, tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        run(images, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_a_range_that_is_not_declared_is_measured(tmp_path, capsys):
    (tmp_path / "images").mkdir()
    ramp = np.linspace(-20, 5, 48, dtype=np.float32).reshape(4, 4, 3)
    ramp[0, 0], ramp[0, 1, 0] = -9999, np.nan
    np.save(tmp_path / "images" / "a.npy", ramp)
    run(tmp_path / "images", tmp_path / "out", layout="raw", nodata=-9999)
    source = open_source(tmp_path / "out")
    low, high = source.manifest.value_range
    assert (low, high) == (ramp[0, 1, 1], 5) and source[0].values.min() == low
    assert "measured on 1 of 1 records" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"have float32 values, such as .*a.npy, but jpeg stores 8 bits"):
        run(tmp_path / "images", tmp_path / "other")


def test_sources_and_destinations_that_cannot_be_used(images, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="no destination: type `fastmim prepare SRC DST`"):
        run(images, None)
    with pytest.raises(UserError, match="does not exist"):
        run(tmp_path / "nowhere", tmp_path / "out")
    for destination in (images / "out", images.parent, images):
        with pytest.raises(UserError, match="lie in one another"):
            run(images, destination)
    with pytest.raises(UserError, match="lie in one another"):
        run(f"sample::{images}", images / "out")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file"):
        run(images, tmp_path / "file")
    with pytest.raises(UserError, match="cannot be written"):
        run(images, "/proc/prepared")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.png").write_bytes(b"not an image")
    with pytest.raises(UserError, match="None of the 1 images of the split train can be read"):
        run(tmp_path / "broken", tmp_path / "out")


def test_a_check_finds_a_flipped_bit(images, tmp_path, capsys):
    run(images, tmp_path / "out", layout="raw", splits=["test"])
    shard = tmp_path / "out" / "test" / "00000-of-00001.array_record"
    data = bytearray(shard.read_bytes())
    data[len(data) // 300] ^= 4
    assert run(tmp_path / "out", None, check=True) == 0
    shard.write_bytes(data)
    assert run(tmp_path / "out", None, check=True) == 1
    assert "1 of 6 files cannot be read" in capsys.readouterr().out


def test_a_run_that_was_killed_at_its_very_end_is_finished(images, tmp_path, capsys):
    run(images, tmp_path / "out", splits=["test"])
    before = tree(tmp_path / "out")
    (tmp_path / "out" / ".unfinished").mkdir()
    (tmp_path / "out" / ".unfinished" / "test-00000.json").write_text("{}")
    assert run(images, tmp_path / "out", splits=["test"]) == 0 and tree(tmp_path / "out") == before
    assert "finished already" in capsys.readouterr().out


def test_a_write_error_of_the_library_is_an_os_error():
    with pytest.raises(OSError, match="No space left"):
        shards._write(Path("/dev/full"), [bytes(200_000)])


def test_a_full_disk_is_a_sentence(images, tmp_path, monkeypatch):
    def full(path, records):
        raise OSError("write() failed: No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(shards, "_write", full)
        with pytest.raises(UserError, match="No space left on device. Finished shards stay: make room"):
            run(images, tmp_path / "out")
    assert run(images, tmp_path / "out") == 0  # resumes


@pytest.mark.parametrize(("layout", "least"), [("raw", 80), ("yuv420", 30), ("jpeg", 30)])
def test_training_crops_are_those_of_the_originals(tmp_path, layout, least):
    folder = tmp_path / "images"
    folder.mkdir()
    photo = Image.fromarray(chelsea())
    for i in range(4):
        photo.crop((60 * i, 0, 60 * i + 160, 160)).save(folder / f"{i}.png")
    run(folder, tmp_path / "out", layout=layout)
    options = dict(image_size=(64, 64), channels=3, batch_size=4, seed=1, threads=1)
    batches = []
    for path in (folder, tmp_path / "out"):
        with make_loader(open_source(path), **options) as loader:
            batches.append(next(loader))
    for key in ("flip", "index", "label", "num_undecodable"):
        assert np.array_equal(batches[0][key], batches[1][key])
    assert psnr(batches[1]["image"], batches[0]["image"]) > least


@pytest.mark.slow
def test_pretraining_and_probing_on_prepared_images(images, tmp_path):
    run(images, tmp_path / "out", layout="yuv420")
    workdir = pretrained(tmp_path / "out", tmp_path / "run", steps=1)
    found = probe(workdir, str(tmp_path / "out"), kinds=("knn",), log=lambda line: None)
    assert found


@pytest.mark.parametrize(
    "content", [b"", b"[1]", b"\xff", b"{}", b'{"settings": 3}', b'{"settings": {"records": 3}}']
)
def test_damaged_settings_of_an_interrupted_preparation(content, images, tmp_path):
    unfinished = tmp_path / "out" / ".unfinished"
    unfinished.mkdir(parents=True)
    (unfinished / "settings.json").write_bytes(content)
    with pytest.raises(UserError, match="rm -r") as caught:
        run(images, tmp_path / "out")
    assert "\n" not in str(caught.value) and (unfinished / "settings.json").read_bytes() == content


@pytest.mark.parametrize("content", [b"", b"[1]", b"\xff", b'{"x": 1}', b'{"labels": 3}', b"[" * 100_000])
def test_damaged_facts_of_a_shard_are_gathered_again(content, tmp_path):
    (tmp_path / "facts").write_bytes(content)
    assert load_facts(tmp_path / "facts") is None
