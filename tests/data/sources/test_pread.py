"""Parts of files, read by many threads through one descriptor."""

import concurrent.futures
import os
import pickle

import pytest

from fastmim_jax.data.sources.pread import _OPEN_FILES, _open, read_at, read_buffers, stamp


def test_parts_of_a_file(tmp_path):
    path, data = tmp_path / "file", os.urandom(5000)
    path.write_bytes(data)
    file = pickle.loads(pickle.dumps(stamp(path)))
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        parts = list(pool.map(lambda start: read_at(file, start, 100), range(0, 4900, 7)))
    assert parts == [data[start : start + 100] for start in range(0, 4900, 7)]
    assert read_at(file, 5000, 0) == b""
    with pytest.raises(OSError, match="ends at byte 5,000, expected 5,001"):
        read_at(file, 4990, 11)


@pytest.mark.parametrize("scattered", [True, False])
def test_bytes_are_read_into_buffers(tmp_path, monkeypatch, scattered):
    path, data = tmp_path / "file", os.urandom(5000)
    path.write_bytes(data)
    if not scattered:  # macOS
        monkeypatch.delattr(os, "preadv")
    buffers = [memoryview(bytearray(size)) for size in (7, 0, 1, *[2] * 1500)]
    read_buffers(stamp(path), 5, buffers)
    assert b"".join(buffers) == data[5:3013]
    with pytest.raises(OSError, match="ends at byte 5,000, expected 5,010"):
        read_buffers(stamp(path), 2002, buffers)


def test_a_replaced_file_is_opened_again(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    old = stamp(path)
    assert read_at(old, 0, 3) == b"old"
    (tmp_path / "new").write_bytes(b"newer")
    os.replace(tmp_path / "new", path)
    assert read_at(stamp(path), 0, 3) == b"new" and stamp(path) != old


def test_few_files_stay_open(tmp_path):
    for index in range(_OPEN_FILES + 20):
        path = tmp_path / str(index)
        path.write_bytes(b"%03d" % index)
        assert read_at(stamp(path), 0, 3) == b"%03d" % index
    info = _open.cache_info()
    assert info.currsize <= info.maxsize
    if os.path.isdir("/proc/self/fd"):
        paths = [os.path.realpath(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd")]
        assert sum(path.startswith(os.path.realpath(tmp_path)) for path in paths) <= info.maxsize
