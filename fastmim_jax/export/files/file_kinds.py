"""Kinds of files that hold no arrays that are read here, recognised by their first bytes."""

import re
from collections.abc import Sequence
from pathlib import Path

from fastmim_jax.errors import UserError

HEAD = 512  # bytes that are looked at
LFS = b"version https://git-lfs"
SAVE = "save the arrays there with torch.save or safetensors"
FETCH = "such as a failed download leaves: fetch the checkpoint again"
# (first bytes, offset, what the file is, what to do)
MAGICS = (
    (b"\x89HDF\r\n\x1a\n", 0, "an HDF5 file, as Keras and h5py write it", SAVE),
    (b"\x93NUMPY", 0, "one NumPy array (.npy)", "expected named arrays, as in a checkpoint of torch.save"),
    (b"GGUF", 0, "a GGUF file, as llama.cpp writes it", SAVE),
    (b"TFL3", 4, "a TensorFlow Lite model", SAVE),
    (b"PAR1", 0, "a Parquet table", ""),
    (b"ARROW1", 0, "an Arrow table", ""),
    (b"FEA1", 0, "a Feather table", ""),
    (b"SQLite format 3\0", 0, "an SQLite database", ""),
    (b"\x89PNG", 0, "a PNG picture", ""),
    (b"\xff\xd8\xff", 0, "a JPEG picture", ""),
    (b"GIF8", 0, "a GIF picture", ""),
    (b"II*\0", 0, "a TIFF picture", ""),
    (b"MM\0*", 0, "a TIFF picture", ""),
    (b"WEBP", 8, "a WebP picture", ""),
    (b"RIFF", 0, "a RIFF file of sound or film", ""),
    (b"ftyp", 4, "a film or an HEIF picture", ""),
    (b"%PDF", 0, "a PDF", ""),
    (b"\x7fELF", 0, "a compiled program", ""),
    (b"ustar", 257, "a tar archive", "unpack it and give the checkpoint inside"),
    (b"\x1f\x8b", 0, "a gzip archive", "unpack it and give the checkpoint inside"),
    (b"BZh", 0, "a bzip2 archive", "unpack it and give the checkpoint inside"),
    (b"\xfd7zXZ\0", 0, "an xz archive", "unpack it and give the checkpoint inside"),
    (b"(\xb5/\xfd", 0, "a zstd archive", "unpack it and give the checkpoint inside"),
    (b"7z\xbc\xaf'\x1c", 0, "a 7z archive", "unpack it and give the checkpoint inside"),
    (b"Rar!", 0, "a RAR archive", "unpack it and give the checkpoint inside"),
)
# A map of 1 to 15 or more entries, then a text.
MSGPACK = re.compile(rb"([\x81-\x8f]|\xde..|\xdf....)([\xa0-\xbf]|\xd9|\xda)", re.DOTALL)
# Field 1, a small number (a version), then field 2, 3, 7 or 8 with a length.
PROTOBUF = re.compile(rb"\x08[\x01-\x20][\x12\x1a\x22\x3a\x42]")
BMP = re.compile(rb"BM....\0\0\0\0", re.DOTALL)
TABLE_END = bytes.fromhex("57fb808b247547db")  # of LevelDB, in which TensorFlow keeps its index
TABLE_DATA = re.compile(r"\.data-\d+-of-\d+$")  # end of a name


PART = re.compile(r"-(\d{5})-of-(\d{5})\.(safetensors|bin)$")  # end of a name
DCP = "type python -m torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER FILE.pth, and give that"


def check_part(path: Path) -> None:
    """Refuse one of several parts of a model, going by its name.

    Raises:
      UserError: it is one.
    """
    part = PART.search(path.name)
    if part and int(part[2]) > 1:
        raise UserError(
            f"{path} is part {int(part[1])} of {int(part[2])} of a model: give the folder with all parts "
            "and their index"
        )
    if path.suffix == ".distcp":
        raise UserError(f"{path} is a part of a checkpoint of torch.distributed: {DCP}")


def what_folder(names: Sequence[str]) -> str:
    """Return what to do about a folder that training libraries write; "" for others."""
    if any(name.endswith(".distcp") for name in names):
        return f"it is a checkpoint of torch.distributed: {DCP}"
    if "zero_to_fp32.py" in names or any(name.startswith("zero_pp_rank") for name in names):
        return "it is a checkpoint of DeepSpeed: type python zero_to_fp32.py FOLDER FILE.pth, and give that"
    if "latest" in names or any(name.startswith("mp_rank_") for name in names):
        return "it is a checkpoint of DeepSpeed: give its file mp_rank_00_model_states.pt"
    return ""


def check_kind(path: str | Path) -> None:
    """Refuse a file of another kind than pickles, zip archives, safetensors and JSON.

    Raises:
      UserError: it is missing, empty, cannot be read, or of another kind; the message names the kind.
    """
    path = Path(path)
    try:
        if path.is_dir():
            raise UserError(f"{path} is a folder: expected a file of arrays")
        with path.open("rb") as file:
            head, size = file.read(HEAD), file.seek(0, 2)
            file.seek(max(0, size - len(TABLE_END)))
            tail = file.read()
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: expected a checkpoint or a folder with one") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): expected a checkpoint") from error
    found = name_kind(head, tail)
    if TABLE_DATA.search(path.name):
        found = "a part of a TensorFlow checkpoint", SAVE
    if found is not None:
        kind, advice = found
        advice = advice or "expected a checkpoint of torch.save or safetensors"
        raise UserError(f"{path} is {kind}{'' if advice.startswith('such as') else ':'} {advice}")


def name_kind(head: bytes, tail: bytes = b"") -> tuple[str, str] | None:
    """Return what a file is and what to do about it; None for what may hold arrays.

    Args:
      head: the first HEAD bytes, fewer of a shorter file. tail: the last bytes.
    """
    if not head:
        return "empty", "expected a checkpoint, fetch it again"
    if head.startswith((b"PK\x03\x04", b"\x80")) or head[8:9] == b"{":
        return None
    if head.startswith(LFS):
        return "the pointer of git-lfs, not the file that it stands for", "type git lfs pull"
    for magic, offset, kind, advice in MAGICS:
        if head[offset : offset + len(magic)] == magic:
            return kind, advice
    if not any(head):
        return "full of zeros", "fetch the checkpoint again"
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
        return "a web page,", FETCH
    if tail == TABLE_END:
        return "the index of a TensorFlow checkpoint", SAVE
    if BMP.match(head):
        return "a BMP picture", ""
    if MSGPACK.match(head):
        return "a msgpack file, as Flax writes it", SAVE
    if PROTOBUF.match(head):
        return "a protobuf file, as ONNX and TensorFlow's SavedModel are", SAVE
    return _name_text(head)


def _name_text(head: bytes) -> tuple[str, str] | None:
    """Name a file of text; pickles of the protocols 0 and 1 that are text do not start with a word."""
    if not all(32 <= byte < 127 or byte in b"\t\r\n" for byte in head):
        return None
    start = head.split(b"\n")[0][:40].decode()
    if head.startswith((b"(", b"]", b"}", b"c")) and not re.match(rb"c\w+( |:)", head):
        return None
    return f"text that starts with {start!r}", ""
