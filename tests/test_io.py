"""Files are replaced as one; JSON lines survive a crash."""

import json
import os

import pytest

from fastmim_jax.errors import UserError
from fastmim_jax.io import (
    append_json_line,
    atomic_write,
    read_json,
    read_json_lines,
    write_json,
    write_json_lines,
    write_text,
)


class Interrupted(BaseException):
    pass


def tree(path):
    """{relative path: content} of the files below a folder."""
    return {str(file.relative_to(path)): file.read_text() for file in path.rglob("*") if file.is_file()}


@pytest.mark.parametrize("old", ["nothing", "a file"])
def test_a_path_is_replaced_at_the_end_or_not_at_all(tmp_path, old):
    path = tmp_path / "made" / "here" / "new" if old == "nothing" else tmp_path / "new"
    if old == "a file":
        path.write_text("old")
    before = tree(tmp_path)
    for error in (ValueError, Interrupted):
        with pytest.raises(error), atomic_write(path) as temporary:
            assert temporary.name == "new" and temporary.parent.parent == path.parent
            temporary.write_text("new")
            raise error
        assert tree(tmp_path) == before
        assert [entry.name for entry in tmp_path.iterdir()] == ([] if old == "nothing" else ["new"])
    if old != "nothing":
        with pytest.raises(UserError, match="exists already"), atomic_write(path, overwrite=False):
            raise AssertionError
        assert tree(tmp_path) == before
    with atomic_write(path) as temporary:
        temporary.write_text("new")
    assert tree(tmp_path) == {str(path.relative_to(tmp_path)): "new"}
    assert [entry.name for entry in path.parent.iterdir()] == ["new"]
    assert os.stat(path).st_mode & 0o077 == 0o066 & ~_umask()


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_a_folder_is_never_replaced(tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "y").write_text("old")
    with (
        pytest.raises(UserError, match="x is a folder, expected the name of a file"),
        atomic_write(tmp_path / "x"),
    ):
        raise AssertionError
    assert tree(tmp_path) == {"x/y": "old"}


def test_nowhere_to_write(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file/x cannot be written .*: expected a folder"):
        write_text(tmp_path / "file" / "x", "new")


def test_a_failed_move_keeps_the_old_file(tmp_path, monkeypatch):
    write_text(tmp_path / "a", "old")

    def refuse(*_):
        raise OSError("disk")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OSError, match="disk"):
        write_text(tmp_path / "a", "new")
    assert tree(tmp_path) == {"a": "old"} and len(list(tmp_path.iterdir())) == 1


def test_text_and_json(tmp_path):
    write_text(tmp_path / "made" / "a.txt", "h\u00e4user")
    assert (tmp_path / "made" / "a.txt").read_bytes() == b"h\xc3\xa4user"
    write_json(tmp_path / "a.json", {"a": [1, 0.1 + 0.2]}, indent=None)
    assert (tmp_path / "a.json").read_text() == '{"a": [1, 0.30000000000000004]}\n'


def test_json_lines_are_appended_with_every_bit(tmp_path):
    path = tmp_path / "a.jsonl"
    assert read_json_lines(path) == ([], 0)
    records = [{"step": 1, "loss": 0.1 + 0.2}, {"step": 2}]
    for record in records:
        append_json_line(path, record)
    assert read_json_lines(path) == (records, 0)
    write_json_lines(path, records[1:])
    assert path.read_text() == '{"step": 2}\n'


@pytest.mark.parametrize("end", [b'{"step": 3, "lo', b'{"step": 3, "name": "\xc3', b"{"])
def test_a_line_that_was_cut_off_is_dropped_and_counted(tmp_path, end):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"step": 1}\n{"step": 2}\n' + end)
    assert read_json_lines(path) == ([{"step": 1}, {"step": 2}], 1)
    append_json_line(path, {"step": 4})
    assert read_json_lines(path) == ([{"step": 1}, {"step": 2}, {"step": 4}], 0)


def test_a_last_line_that_only_lacks_its_end_is_kept(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"step": 1}))
    append_json_line(path, {"step": 2})
    assert read_json_lines(path) == ([{"step": 1}, {"step": 2}], 0)


DAMAGED = {
    b"": "it is empty",
    b" \n": "it is empty",
    b"[1": "it is not JSON: ",
    b"[" * 100_000: "it is not JSON",
    b"\xff\xfe\x00": "it is not UTF-8 text",
    b"[1]": "it holds a JSON list",
    b"null": "it holds null",
    b"true": "it holds a boolean",
    b"1e3": "it holds a number",
    b'"a"': "it holds a text",
}


@pytest.mark.parametrize("content", DAMAGED, ids=lambda content: repr(content[:4]))
def test_a_damaged_file_is_named_with_its_problem(content, tmp_path):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_json(tmp_path / "a.json", dict, "a list of cats: delete it")
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'a.json'} cannot be read ({DAMAGED[content]}")
    assert message.endswith("), expected a list of cats: delete it") and "\n" not in message


def test_a_file_that_is_missing_or_a_folder(tmp_path):
    for name, problem in (("missing", "No such file or directory"), ("", "Is a directory")):
        with pytest.raises(UserError, match=problem):
            read_json(tmp_path / name, list, "a list")
    write_json(tmp_path / "a.json", [1, {"a": 2}])
    assert read_json(tmp_path / "a.json", list, "a list") == [1, {"a": 2}]


def test_lines_that_are_no_objects_are_dropped(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(
        b'{"step": 1}\n[2]\n3\nnull\n\xff\x00\n' + b"[" * 100_000 + b'\n{"step": 2}\n'
    )
    assert read_json_lines(tmp_path / "a.jsonl") == ([{"step": 1}, {"step": 2}], 5)
    with pytest.raises(UserError, match="cannot be read .Is a directory.*move it out of the way"):
        read_json_lines(tmp_path)
