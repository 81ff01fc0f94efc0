"""Files of other kinds are named as what they are."""

import io
import tarfile

import numpy as np
import pytest
from PIL import Image

from fastmim_jax.errors import UserError
from fastmim_jax.export.files.array_files import read_tensors
from fastmim_jax.export.files.file_kinds import check_kind, check_part, what_folder


def picture(kind):
    file = io.BytesIO()
    Image.new("RGB", (4, 4)).save(file, kind)
    return file.getvalue()


def archive():
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("storages"))
    return file.getvalue()


def array():
    file = io.BytesIO()
    np.save(file, np.ones(3))
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"", "is empty: expected a checkpoint"),
        (b"\0" * 4096, "is full of zeros: fetch"),
        (b"\n<!DOCTYPE html><html>404", "is a web page, such as a failed download leaves"),
        (b"\xef\xbb\xbf<?xml version='1.0'?>", "is a web page"),
        (b"Entry not found", "is text that starts with 'Entry not found'"),
        (b"checkpoint not there", "is text that starts with 'checkpoint"),
        (b'model_checkpoint_path: "x"\n', "is text that starts with 'model_checkpoint_path"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\n", "type git lfs pull"),
        (b"\x89HDF\r\n\x1a\n" + b"\0" * 90, "is an HDF5 file, as Keras"),
        (b"\x81\xa6params\x82\xa5Dense", "is a msgpack file, as Flax writes it"),
        (b"\xde\x00\x11\xa6params", "is a msgpack file"),
        (b"\x08\x08\x12\x07pytorch\x1a\x051.9", "is a protobuf file, as ONNX"),
        (b"\x08\x01\x12\x80\x02\x12", "is a protobuf file"),
        (b"\0" * 40 + b"x" + bytes.fromhex("57fb808b247547db"), "is the index of a TensorFlow"),
        (b"PAR1\x15\x04", "is a Parquet table: expected a checkpoint of torch.save"),
        (b"GGUF\x03\0\0\0", "is a GGUF file"),
        (b"\x1f\x8b\x08\0", "is a gzip archive: unpack it"),
        (b"%PDF-1.7", "is a PDF"),
        (picture("PNG"), "is a PNG picture"),
        (picture("JPEG"), "is a JPEG picture"),
        (picture("GIF"), "is a GIF picture"),
        (picture("BMP"), "is a BMP picture"),
        (picture("TIFF"), "is a TIFF picture"),
        (picture("WEBP"), "is a WebP picture"),
        (archive(), "is a tar archive: unpack it"),
        (array(), "is one NumPy array"),
    ],
)
def test_other_kinds_are_named(tmp_path, content, kind):
    path = tmp_path / "model.pth"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_tensors(path)
    assert f"{path} {kind}" in str(caught.value) or kind in str(caught.value)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


def test_a_part_of_a_tensorflow_checkpoint_is_known_by_its_name(tmp_path):
    path = tmp_path / "model.ckpt.data-00000-of-00001"
    path.write_bytes(np.ones(9).tobytes())
    with pytest.raises(UserError, match="is a part of a TensorFlow checkpoint"):
        read_tensors(path)


def test_missing_files_and_folders(tmp_path):
    for path, match in ((tmp_path / "no", "does not exist"), (tmp_path, "is a folder")):
        with pytest.raises(UserError, match=match):
            check_kind(path)


def test_folders_say_what_they_hold(tmp_path):
    (tmp_path / "flax_model.msgpack").write_bytes(b"x")
    with pytest.raises(UserError, match=r"has no model.safetensors .*, only flax_model.msgpack"):
        read_tensors(tmp_path)


@pytest.mark.parametrize(
    ("names", "advice"),
    [
        (["__0_0.distcp", ".metadata"], "dcp_to_torch"),
        (["zero_to_fp32.py", "latest", "global_step5"], "zero_to_fp32.py FOLDER"),
        (["latest", "global_step5"], "mp_rank_00_model_states.pt"),
        (["notes.txt"], ""),
    ],
)
def test_folders_of_training_libraries_are_named(names, advice):
    assert advice in what_folder(names) and bool(what_folder(names)) == bool(advice)


def test_one_part_of_several_is_named(tmp_path):
    with pytest.raises(UserError, match="is part 2 of 3 of a model: give the folder"):
        check_part(tmp_path / "model-00002-of-00003.safetensors")
    with pytest.raises(UserError, match="dcp_to_torch"):
        check_part(tmp_path / "__0_0.distcp")
    check_part(tmp_path / "model-00001-of-00001.safetensors")
