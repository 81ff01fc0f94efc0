"""Undecodable records are reported once, listed in a file, counted across restarts, and limited."""

import numpy as np
import pytest
from PIL import Image

from fastmim_jax.data.loader import make_loader
from fastmim_jax.data.sources import FolderSource
from fastmim_jax.data.undecodable import UndecodableRecords
from fastmim_jax.errors import UserError


@pytest.fixture
def source(tmp_path):
    """Ten records; 2 is empty, 3 is text, 9 is truncated."""
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(10):
        Image.new("RGB", (8, 8), (i, i, i)).save(folder / f"{i}.png")
    (folder / "2.png").write_bytes(b"")
    (folder / "3.png").write_text("<html>")
    complete = (folder / "9.png").read_bytes()
    (folder / "9.png").write_bytes(complete[:-30])
    return FolderSource(folder)


def batch(*pairs):
    index, num_undecodable = np.array(pairs or np.zeros((0, 2)), int).T
    label = np.full(len(index), -1, np.int32)
    return {"index": index, "num_undecodable": num_undecodable.astype(np.int32), "label": label}


def test_each_record_is_reported_once(source):
    records = UndecodableRecords(source, max_share=0.5)
    assert records.summary() == "every record was decoded"
    assert records.update(batch((0, 0), (5, 0))) == []
    first = records.update(batch((0, 0), (2, 2), (3, 1)))
    assert [line.partition(": ")[0] for line in first] == [
        f"replaced {source.name(2)}",
        f"replaced {source.name(3)}",
    ]
    assert first[0].endswith("2.png: empty file") and "starts with '<html>'" in first[1]
    assert records.update(batch((2, 2), (3, 1))) == []
    assert len(records.update(batch((9, 1)))) == 1
    assert records.count == 3
    assert records.summary().startswith("3 of 10 records could not be decoded and were replaced: ")
    assert "2.png (empty file)" in records.summary()


def test_consecutive_records_wrap_around(source):
    records = UndecodableRecords(source, max_share=1)
    lines = records.update(batch((9, 5)))  # 9, 0, 1, 2, 3
    assert [line.partition(".png")[0][-1] for line in lines] == list("90123")
    assert lines[1].endswith("0.png: failed in a worker, but decodes now")


def test_the_file_survives_a_restart(source, tmp_path):
    path = tmp_path / "bad_files.txt"
    records = UndecodableRecords(source, 0.5, path)
    assert not path.exists()  # no record, no file
    records.update(batch((2, 2)))
    assert path.read_text().splitlines()[0] == f"{source.name(2)}\tempty file\t2"
    again = UndecodableRecords(source, 0.5, path)
    assert again.count == 2 and again.summary() == records.summary()
    assert again.update(batch((2, 2))) == []  # reported in the first run
    assert len(again.update(batch((9, 1)))) == 1
    assert len(path.read_text().splitlines()) == 3
    assert UndecodableRecords(source, 0.5, path).count == 3


def test_the_limit(source, tmp_path):
    path = tmp_path / "bad_files.txt"
    records = UndecodableRecords(source, 0.2, path)
    records.update(batch((2, 2)))  # 2 of 10: as many as allowed
    with pytest.raises(UserError) as caught:
        records.update(batch((9, 1)))
    message = str(caught.value)
    for part in ("3 of 10", "30.00%", "20.00%", "2.png (empty file)", "config.data.max_bad_share"):
        assert part in message
    assert str(path) in message and "\n" not in message
    assert len(path.read_text().splitlines()) == 3  # written before the end
    with pytest.raises(UserError):  # the count survives a restart
        UndecodableRecords(source, 0.2, path).update(batch((0, 0)))
    with pytest.raises(UserError):
        UndecodableRecords(source, 0.0).update(batch((2, 1)))


def test_the_reason_depends_on_the_channels(source):
    line = UndecodableRecords(source, 1, channels=13).update(batch((0, 1)))[0]
    assert line.endswith("has 3 channels, expected 13")


def test_names_with_line_breaks_stay_on_one_line(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "tab\there\nand there.png").write_bytes(b"")
    (folder / "zoë\r.png").write_bytes(b"")
    path = tmp_path / "bad.txt"
    records = UndecodableRecords(FolderSource(folder), 1, path)
    lines = records.update(batch((0, 1), (1, 1)))
    assert len(lines) == 2 and all(line.encode() and "\n" not in line for line in lines)
    assert [line.count("\t") for line in path.read_text().splitlines()] == [2, 2]
    assert UndecodableRecords(FolderSource(folder), 1, path).update(batch((0, 1), (1, 1))) == []


def test_with_the_loader(source):
    records = UndecodableRecords(source, 0.5)
    options = {"image_size": (8, 8), "channels": 3, "batch_size": 5, "seed": 0}
    with make_loader(source, **options) as loader:
        for _ in range(2):
            records.update(next(loader))
    assert records.count == 3


def test_no_empty_image_is_trained_on(source, monkeypatch):
    monkeypatch.setattr("fastmim_jax.data.undecodable.MAX_TRIES", 2)
    with pytest.raises(UserError, match="2 records in a row could not be decoded: .*2.png .empty file"):
        UndecodableRecords(source, max_share=1).update(batch((2, 2)))


def test_an_outage_that_is_over_does_not_stop_the_next_start(source, tmp_path):
    path, lines = tmp_path / "bad_files.txt", []
    away = [tmp_path / "images" / f"{i}.png" for i in range(4, 9)]
    for file in away:
        file.rename(tmp_path / file.name)
    records = UndecodableRecords(source, 0.5, path)
    with pytest.raises(UserError, match="6 of 10 records .* Start again after repairing or removing them"):
        records.update(batch((2, 1), *((i, 1) for i in range(4, 9))))
    for file in away:
        (tmp_path / file.name).rename(file)
    again = UndecodableRecords(source, 0.5, path, log=lines.append, threads=3)
    assert again.count == 1 and again.update(batch((2, 1))) == []
    assert path.read_text() == f"{source.name(2)}\tempty file\t2\n"
    assert lines == [
        f"5 of the 6 records in {path} can be decoded now, or are no longer there: removed from it"
    ]


def test_a_damaged_list_is_cleaned(source, tmp_path):
    path, lines = tmp_path / "bad_files.txt", []
    good = f"{source.name(2)}\tempty file\t2\n".encode()
    gone = b"/gone.png\tempty file\t3\n/far.png\tempty file\t99\n"
    path.write_bytes(b"\xff\x00\n" + good + good + b"older.png\tempty file\n" + gone + b"cut.png\tem")
    records = UndecodableRecords(source, 0.5, path, log=lines.append)
    assert records.count == 1 and path.read_bytes() == good
    assert lines[0] == f"{path}: damaged lines removed: 4"
    assert lines[1].startswith("2 of the 3 records in ")
    path.unlink()
    path.mkdir()
    with pytest.raises(UserError, match="bad_files.txt cannot be read .Is a directory"):
        UndecodableRecords(source, 0.5, path)
