"""The seed alone determines the stream: not workers, processes, restarts or undecodable files."""

import multiprocessing

import numpy as np
import pytest
from PIL import Image

from fastmim_jax.data import crops
from fastmim_jax.data.loader import make_loader
from fastmim_jax.data.sources import FolderSource
from fastmim_jax.errors import UserError
from helpers.sweeps import sweep

N, BATCH = 23, 8  # an epoch that no batch divides
KEYS = {"image", "flip", "index", "num_undecodable", "doubtful", "label"}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """23 JPEGs of noise in two classes, some wide, some tall, one broken."""
    root = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for i in range(N):
        folder = root / f"class{i % 2}"
        folder.mkdir(exist_ok=True)
        size = (30 + i, 50 - i, 3)
        Image.fromarray(rng.integers(0, 256, size, np.uint8)).save(folder / f"{i:02}.jpg")
    (root / "class0" / "04.jpg").write_text("<html>")
    return FolderSource(root)


def colours(root, count, broken=()):
    """One-colour PNGs: the colour of a crop identifies its record."""
    for i in range(count):
        path = root / f"{i:03}.png"
        if i in broken:
            path.write_bytes(b"")
        else:
            Image.new("RGB", (9, 7), (i + 1, 0, 0)).save(path)
    return FolderSource(root)


def take(source, batches, **options):
    """Return the rows of the first batches, one dict per row."""
    options = {"image_size": (12, 16), "channels": 3, "batch_size": BATCH, "seed": 5} | options
    rows = len(options["rows"]) if "rows" in options else options["batch_size"]
    result = []
    with make_loader(source, **{"threads": 2} | options) as loader:
        for _ in range(batches):
            batch = next(loader)
            assert set(batch) == KEYS and all(len(batch[key]) == rows for key in KEYS)
            result += [{key: batch[key][i] for key in batch} for i in range(rows)]
    return result


def same(rows, others):
    return len(rows) == len(others) and all(
        np.array_equal(row[key], other[key])
        for row, other in zip(rows, others, strict=True)
        for key in KEYS
    )


@pytest.fixture(scope="module")
def stream(photos):
    """The reference: the first 96 positions, 4 epochs, read with no workers."""
    return take(photos, 12)


def test_batches(photos):
    with make_loader(photos, image_size=(12, 16), channels=1, batch_size=4, seed=0) as loader:
        batch = next(loader)
    kinds = {key: (array.shape, array.dtype.name) for key, array in batch.items()}
    assert kinds == {
        "image": ((4, 12, 16, 1), "uint8"),
        "flip": ((4,), "bool"),
        "index": ((4,), "int64"),
        "num_undecodable": ((4,), "int32"),
        "doubtful": ((4,), "bool"),
        "label": ((4,), "int32"),
    }
    assert all(type(array) is np.ndarray and array.flags.writeable for array in batch.values())


def test_epochs_are_permutations(stream):
    index = np.array([row["index"] for row in stream])
    epochs = [index[i * N : (i + 1) * N].tolist() for i in range(4)]
    assert all(sorted(epoch) == list(range(N)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4
    assert epochs[0] != list(range(N))


def test_each_epoch_has_other_crops(stream):
    for number in (0, 11):
        crops = {row["image"].tobytes() for row in stream if row["index"] == number}
        assert len(crops) == 4


def test_flips_and_labels(stream, photos):
    flips = np.mean([row["flip"] for row in stream])
    assert 0.3 < flips < 0.7
    for row in stream:
        assert row["label"] == photos.label((row["index"] + row["num_undecodable"]) % N)


def test_another_seed_is_another_stream(photos, stream):
    other = take(photos, 3, seed=6)
    assert [r["index"] for r in other] != [r["index"] for r in stream[:24]]
    assert same(take(photos, 3, seed=5), stream[:24])


def test_without_shuffling(photos):
    rows = take(photos, 6, shuffle=False)
    assert [row["index"] for row in rows] == [i % N for i in range(48)]


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_workers_do_not_change_the_stream(photos, stream, workers):
    assert same(take(photos, 6, workers=workers), stream[:48])
    assert not multiprocessing.active_children()


@pytest.mark.parametrize(
    "owned",
    [
        [[0, 1, 4, 5], [2, 3, 6, 7]],
        [[0, 5], [1, 4], [2, 7], [3, 6]],
        [[0, 1, 2], [3, 4, 5, 6, 7]],
    ],
)
@pytest.mark.parametrize("start", [0, 13])
def test_processes_do_not_change_the_stream(photos, stream, owned, start):
    for rows in owned:
        expected = [stream[start + step * BATCH + row] for step in range(5) for row in rows]
        assert same(take(photos, 5, rows=rows, start=start), expected)


@pytest.mark.slow
def test_workers_and_processes_and_restart_together(photos, stream):
    rows, start = [1, 2, 6], 27
    expected = [stream[start + step * BATCH + row] for step in range(4) for row in rows]
    assert same(take(photos, 4, rows=rows, start=start, workers=2), expected)


@pytest.mark.parametrize("start", [8, 3, N, N + 6, 2 * N + 1])
@pytest.mark.parametrize("batch_size", [8, 5])
def test_restart_anywhere(photos, stream, start, batch_size):
    rows = take(photos, 3, start=start, batch_size=batch_size)
    assert same(rows, stream[start : start + 3 * batch_size])


@pytest.mark.parametrize("batch_size", [1, 7, 67, 96])  # 67 is one chunk, 96 is two
def test_batch_size_does_not_change_the_stream(photos, stream, batch_size):
    assert same(take(photos, 1, batch_size=batch_size), stream[:batch_size])


def test_a_distant_start(photos):
    start = 10**12 + 7
    near, far = take(photos, 2, start=start), take(photos, 1, start=start + BATCH)
    assert same(near[BATCH:], far)


# Augmentation


class Shade:
    """Draw one value; with `amount`, add it to a darkened crop."""

    def __init__(self, amount):
        self.amount = amount

    def __call__(self, crop, rng):
        value = rng.integers(100, dtype=np.uint8)
        return crop // 2 + value if self.amount else crop


def test_augmentation_draws_last(photos, stream):
    assert same(take(photos, 3, augment=Shade(0)), stream[:24])


@pytest.mark.slow
def test_each_record_has_its_own_augmentation(photos, stream):
    rows = take(photos, 6, augment=Shade(1))
    added = [
        np.unique(row["image"] - plain["image"] // 2) for row, plain in zip(rows, stream[:48], strict=True)
    ]
    assert all(len(values) == 1 for values in added)
    assert len(set(np.concatenate(added).tolist())) > 24  # of 48 draws from 100 values
    assert same(take(photos, 1, augment=Shade(1), start=13, rows=[1, 6]), [rows[14], rows[19]])
    assert same(take(photos, 2, augment=Shade(1), workers=1), rows[:16])


def test_empty_images_are_not_augmented(tmp_path):
    rows = take(colours(tmp_path, 2, broken={0, 1}), 1, augment=Shade(1))
    assert not any(row["image"].any() for row in rows)


@pytest.mark.parametrize("shuffle", [True, False])
def test_repeats_follow_each_other(photos, stream, shuffle):
    """Position p has the record of position p // 3 without repeats, and its own crop."""
    rows = take(photos, 9, views_per_image=3, shuffle=shuffle)
    order = [int(row["index"]) for row in stream] if shuffle else list(range(N)) * 2
    assert [row["index"] for row in rows] == [order[p // 3] for p in range(72)]
    assert [row["flip"] for row in rows] == [row["flip"] for row in stream[:72]]
    for p in range(0, 72, 3):
        assert len({row["image"].tobytes() for row in rows[p : p + 3]}) == 3
    assert {int(row["index"]) for row in rows[: 3 * N]} == set(range(N))
    assert len({int(row["index"]) for row in rows[:N]}) == -(-N // 3)


def test_repeats_with_processes_and_restart(photos):
    reference = take(photos, 5, views_per_image=3)
    for rows in ([0, 1, 4], [2, 3, 5, 6, 7]):
        expected = [reference[7 + step * BATCH + row] for step in range(4) for row in rows]
        assert same(take(photos, 4, views_per_image=3, rows=rows, start=7), expected)


def test_a_record_is_decoded_once_for_all_its_views(tmp_path, monkeypatch):
    """All can be decoded here: one in place of another is read twice by a loader that is that far."""
    decoded, read, images = [], crops.read_record, colours(tmp_path, N)

    def note(source, index):
        if source is images:  # threads of a loader that was closed before may still read theirs
            decoded.append(index)
        return read(source, index)

    monkeypatch.setattr(crops, "read_record", note)
    take(images, 1, views_per_image=4, shuffle=False, threads=1)
    read_ahead = list(decoded)
    assert len(read_ahead) >= BATCH // 4
    assert read_ahead == [number % N for number in range(len(read_ahead))]


@pytest.mark.parametrize("views", [2, 4])
def test_views_of_one_crop(photos, views):
    """The crop of all views is that of the first, with several crops of an image."""
    single = take(photos, 4, views_per_image=views)
    rows = take(photos, 4, views_per_image=views, views_per_crop=views)
    assert same(rows, [single[p - p % views] for p in range(len(single))])
    part = take(photos, 1, views_per_image=views, views_per_crop=views, rows=[1, 2, 7], start=8)
    assert same(part, [rows[9], rows[10], rows[15]])


@pytest.mark.parametrize("views", [1, 2, 3, 4])
def test_no_record_is_lost_or_repeated_in_an_epoch_of_views(photos, views):
    """N * views positions hold every record `views` times, wherever the stream is interrupted."""
    rows = take(photos, -(-N * views // BATCH) + 1, views_per_image=views)
    assert (np.bincount([row["index"] for row in rows[: N * views]]) == views).all()
    assert same(take(photos, 1, views_per_image=views, start=2 * BATCH), rows[2 * BATCH : 3 * BATCH])


@pytest.mark.slow
@pytest.mark.multiprocess
@pytest.mark.parametrize("workers", sweep([1, 2, 4], [2]))
def test_workers_and_views_do_not_change_the_stream(photos, workers):
    for views in (1, 4):
        rows = take(photos, 4, views_per_image=views, views_per_crop=views)
        assert same(take(photos, 4, views_per_image=views, views_per_crop=views, workers=workers), rows)
        later = take(
            photos, 2, views_per_image=views, views_per_crop=views, workers=workers, start=2 * BATCH
        )
        assert same(later, rows[2 * BATCH :])


# Records that cannot be decoded


def colour_of(row):
    values = np.unique(row["image"][..., 0])
    assert len(values) == 1
    return int(values[0])


@pytest.mark.slow
def test_undecodable_records_are_replaced_by_the_next_decodable_one(tmp_path):
    source = colours(tmp_path, 10, broken={2, 5, 6, 7, 9})
    expected = {0: 0, 1: 0, 2: 1, 3: 0, 4: 0, 5: 3, 6: 2, 7: 1, 8: 0, 9: 1}  # 9 wraps to 0
    for workers in (0, 1):
        rows = take(source, 3, workers=workers)
        assert {int(r["index"]) for r in rows} == set(range(10))
        for row in rows:
            assert row["num_undecodable"] == expected[int(row["index"])]
            assert colour_of(row) == (row["index"] + row["num_undecodable"]) % 10 + 1


def test_an_undecodable_record_changes_no_other(tmp_path):
    rows = take(colours(tmp_path, 10), 2)
    (tmp_path / "004.png").write_bytes(b"")
    changed = take(FolderSource(tmp_path), 2)
    for before, after in zip(rows, changed, strict=True):
        assert before["index"] == after["index"] and before["flip"] == after["flip"]
        assert (before["index"] == 4) == (after["num_undecodable"] == 1) == (not same([before], [after]))


def test_all_records_undecodable(tmp_path):
    for row in take(colours(tmp_path, 3, broken={0, 1, 2}), 1):
        assert row["num_undecodable"] == 3 and row["label"] == -1 and not row["image"].any()


def test_at_most_max_tries_records_are_tried(tmp_path, monkeypatch):
    monkeypatch.setattr(crops, "MAX_TRIES", 64)
    source = colours(tmp_path, 64 + 6, broken=range(64 + 5))
    rows = take(source, 1, shuffle=False)
    assert [int(row["num_undecodable"]) for row in rows] == [64] * 6 + [63, 62][: BATCH - 6]
    assert not rows[5]["image"].any() and colour_of(rows[6]) == 64 + 6


def test_a_file_that_vanishes_while_training(tmp_path):
    source = colours(tmp_path, 6)
    (tmp_path / "003.png").unlink()
    assert {int(r["index"]) for r in take(source, 1) if r["num_undecodable"]} == {3}


# Arguments out of range


@pytest.mark.parametrize(
    "options, message",
    [
        ({"rows": [2, 1]}, "ascending"),
        ({"rows": [0, 8]}, "positions from 0 to 7"),
        ({"rows": []}, "at least one"),
        ({"seed": -1}, "seed=-1"),
        ({"start": -1}, "start=-1"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"views_per_image": 0}, "views_per_image=0"),
        ({"views_per_image": 4, "views_per_crop": 3}, "does not divide views_per_image=4"),
        ({"views_per_image": 2, "views_per_crop": 2, "start": 3}, "and start=3"),
    ],
)
def test_arguments_out_of_range(photos, options, message):
    with pytest.raises(ValueError, match=message):
        take(photos, 1, **options)


def test_an_empty_source_is_refused(photos):
    class Empty:
        def __len__(self):
            return 0

    with pytest.raises(UserError, match="holds no records"):
        take(Empty(), 1)
