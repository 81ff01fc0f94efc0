"""Parquet and Arrow tables: the columns that count, row groups, and files that cannot be read."""

import json
import sys

import pytest

from fastmim_jax.data.decode import DecodeError, read_image
from fastmim_jax.data.sources import arrow, columns, labelled, open_source, parquet, split_names
from fastmim_jax.errors import UserError

pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed: `pip install pyarrow`")
pq = pytest.importorskip("pyarrow.parquet")
DATA = [b"one", b"two", b"three"]


def write(path, row_group_size=2, **cells):
    pq.write_table(pa.table(cells), path, row_group_size=row_group_size)
    return path


def labels(source):
    return [source.classes[source.label(i)] if source.label(i) >= 0 else None for i in range(len(source))]


@pytest.mark.parametrize(
    ("values", "classes"),
    [
        (pa.array([10, 9, 10]), ("9", "10")),
        (pa.array(["x", "b", "x"]), ("b", "x")),
        (pa.array(["b", "a", "b"]).dictionary_encode(), ("a", "b")),
    ],
)
def test_labels_without_class_names(tmp_path, values, classes):
    source = open_source(write(tmp_path / "a.parquet", jpg=DATA, cls=values))
    assert source.classes == classes and labels(source) == list(map(str, values.to_pylist()))
    assert list(source) == DATA and labelled(source) is source
    assert source.name(2) == f"{tmp_path}/a.parquet[2]"


def test_names_come_from_a_column(tmp_path):
    source = open_source(write(tmp_path / "a.parquet", image=DATA, file_name=["x.jpg", "y.jpg", None]))
    assert (
        source.name(1) == f"y.jpg [{tmp_path}/a.parquet[1]]"
        and source.name(2) == f"{tmp_path}/a.parquet[2]"
    )
    assert source.classes == () and source.label(0) == -1
    with pytest.raises(
        UserError, match="a.parquet has no labels; expected a column label with integers or text"
    ):
        labelled(source)


def test_several_columns(tmp_path):
    path = write(
        tmp_path / "a.parquet", mask=DATA, image=DATA[::-1], label=[0, None, 1], category=[1, 1, 2]
    )
    source = open_source(path)
    assert source[0] == DATA[2] and labels(source) == ["0", None, "1"]
    with pytest.raises(UserError, match="1 of 3 records of .*a.parquet have no label, such as .*[1]"):
        labelled(source)
    source = open_source(write(tmp_path / "b.parquet", image=DATA, category=[1, 1, 2], target=[1, 1, 2]))
    assert source.classes == ()
    with pytest.raises(UserError, match=r"2 label columns \(target, category\); expected one named label"):
        labelled(source)
    with pytest.raises(UserError, match=r"2 columns that may be images \(left, right\); .*named image if"):
        open_source(write(tmp_path / "c.parquet", left=DATA, right=DATA))


def test_types_of_hugging_face_count_before_names():
    features = {"scan": {"_type": "Image"}, "kind": {"_type": "ClassLabel", "names": ["a", "b"]}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    cells = {"image": pa.array(DATA), "scan": pa.array(DATA), "kind": [1, 0, 1], "label": [7, 8, 9]}
    table = pa.table(cells).replace_schema_metadata(metadata)
    chosen = columns.choose_columns(table.schema, "set")
    assert (chosen.image, chosen.label, chosen.classes, chosen.nested) == (
        "scan",
        "kind",
        ("a", "b"),
        False,
    )
    broken = table.replace_schema_metadata({"huggingface": "{"})
    assert columns.choose_columns(broken.schema, "set").label == "label"


def test_a_struct_may_name_a_file(tmp_path):
    (tmp_path / "x.jpg").write_bytes(b"from a file")
    cells = [{"bytes": b"one", "path": "a.jpg"}, {"bytes": None, "path": str(tmp_path / "x.jpg")}, None]
    source = open_source(write(tmp_path / "a.parquet", image=cells))
    assert source[0] == b"one" and source[1] == b"from a file"
    assert source.name(0).startswith("a.jpg [") and source.name(2) == f"{tmp_path}/a.parquet[2]"
    with pytest.raises(DecodeError, match="cannot be read: no image in this row"):
        read_image(source, 2)


def test_a_row_group_is_read_once_in_order(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "find_pages", lambda *_: None)
    read, groups = parquet._read, []
    monkeypatch.setattr(
        parquet, "_read", lambda file, group, name: groups.append(group) or read(file, group, name)
    )
    source = open_source(write(tmp_path / "a.parquet", 4, image=[bytes([i]) for i in range(10)]))
    assert [source[i] for i in range(10)] == [bytes([i]) for i in range(10)] and groups == [0, 1, 2]
    assert source.notices == ()
    monkeypatch.setattr(parquet, "_LARGE_GROUP", 10)
    (notice,) = open_source(tmp_path / "a.parquet").notices
    assert "reading one record out of order reads its row group, up to 4 records" in notice


def test_files_that_cannot_be_read(tmp_path):
    path = write(tmp_path / "a.parquet", image=DATA)
    for name, content, reason in [
        ("empty", b"", "is empty; expected a complete one"),
        ("cut", path.read_bytes()[:-9], "cannot be read as a file of kind parquet"),
        ("text", b"<html>" * 9, "cannot be read as a file of kind parquet"),
    ]:
        (tmp_path / f"{name}.parquet").write_bytes(content)
        with pytest.raises(UserError, match=f"{name}.parquet {reason}"):
            open_source(tmp_path / f"{name}.parquet")
    with pytest.raises(
        UserError, match="has no image column; its columns are word: string, x: int64; expected one"
    ):
        open_source(write(tmp_path / "words.parquet", word=["a"], x=[1]))
    (tmp_path / "two").mkdir()
    write(tmp_path / "two" / "0.parquet", image=DATA), write(tmp_path / "two" / "1.parquet", picture=DATA)
    with pytest.raises(
        UserError, match="two/1.parquet has no column image, but .*two/0.parquet has; expected"
    ):
        open_source(tmp_path / "two")
    with pytest.raises(UserError, match="none.parquet is empty; expected images"):
        open_source(write(tmp_path / "none.parquet", image=pa.array([], pa.binary())))


def test_pyarrow_is_named_where_it_is_missing(tmp_path, monkeypatch):
    path = write(tmp_path / "a.parquet", image=DATA)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(
        UserError, match="a.parquet needs pyarrow, which is not installed: .*extra `parquet`"
    ):
        open_source(path)


def save(root, *parts, **files):
    """Files as `save_to_disk` of Hugging Face's `datasets` writes them."""
    root.mkdir(parents=True)
    names = [f"data-{number:05}-of-{len(parts):05}.arrow" for number in range(len(parts))]
    for name, part in zip(names, parts, strict=True):
        table = pa.table({"image": part, "label": list(range(len(part)))})
        with pa.ipc.new_stream(str(root / name), table.schema) as stream:
            stream.write_table(table, max_chunksize=2)
    (root / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}))
    (root / "dataset_info.json").write_text("{}")
    return root


def test_arrow_files(tmp_path):
    path = save(tmp_path / "set", DATA, DATA[:1])
    assert arrow.matches(str(path)) and split_names(path) == ()
    source = open_source(path)
    assert list(source) == DATA + DATA[:1] and source.classes == ("0", "1", "2") and source.label(2) == 2
    assert source.name(3) == f"{path}[3]"
    with pytest.raises(UserError, match="'val' was asked for, but the data set .* is not divided"):
        open_source(path, "val")


def test_arrow_files_that_cannot_be_read(tmp_path):
    path = save(tmp_path / "set", DATA)
    file = path / "data-00000-of-00001.arrow"
    data = file.read_bytes()
    for content, reason in [
        (b"", "is empty"),
        (data[:40], "cannot be read"),
        (data[:-200], "cannot be read"),
    ]:
        file.write_bytes(content)
        with pytest.raises(UserError, match=f"data-00000-of-00001.arrow {reason}"):
            open_source(path)
    file.unlink()
    with pytest.raises(UserError, match="set lacks data-00000-of-00001.arrow; expected all files that"):
        open_source(path)
    (path / "state.json").write_text("{")
    with pytest.raises(UserError, match="state.json cannot be read .*copy it again"):
        open_source(path)
    with pytest.raises(UserError, match="is empty; expected images"):
        open_source(save(tmp_path / "nothing", pa.array([], pa.binary())))
