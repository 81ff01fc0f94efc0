"""Zip files of images: as a folder of images is divided into classes and splits."""

import functools
import os
import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from fastmim_jax.data.sources.base import TreeSource, refuse_file, refuse_split
from fastmim_jax.data.sources.listing import Listing, extension, is_image
from fastmim_jax.data.sources.paths import PathTable, compact
from fastmim_jax.data.sources.pread import FileStamp, read_at, stamp
from fastmim_jax.data.sources.splits import Division, describe_left_out, divide, only_splits, split_of
from fastmim_jax.errors import UserError

_HEADER = 30  # bytes of a member's header before its name
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_ENCRYPTED = 1  # bit of a member's flags


def matches(path: str) -> bool:
    """Return whether `path` is a zip file by its extension."""
    return os.path.isfile(path) and extension(path) == "zip"


def split_names(path: str) -> tuple[str, ...]:
    """Return which of SPLITS the folders in a zip file are; () if it is not divided.

    Raises:
      UserError: not a zip file.
    """
    return tuple(_divide(stamp(path)).folders)


def open_split(path: str, split: str) -> "ZipSource":
    """Open a split.

    Raises:
      UserError: not a zip file, no such split, no image in it, or members that cannot be read.
    """
    division, root = _divide(stamp(path)), _directory(stamp(path)).root()
    folder = division.find(split)
    if folder is not None:
        return ZipSource(path, f"{root}{folder}/", describe_left_out(path, division))
    if not division.folders and split == "train":
        return ZipSource(path, root)
    expected = f"a folder {split} in it, beside its other splits"
    refuse_split(split, f"the zip file {path}", tuple(division.folders), expected)


class ZipSource(TreeSource):
    """Images below a folder of a zip file, stored or deflated; see `folder.FolderSource`.

    Threads and processes read at offsets of their own, without a common position.
    """

    def __init__(self, path: str, root: str = "", more_notices: Sequence[str] = ()):
        """Open the images below `root`: "", or a folder that ends with "/".

        Raises:
          UserError: not a zip file; no image there; or one that is encrypted, or compressed by a method
            other than deflate.
        """
        self._file = stamp(path)
        directory = _directory(self._file)
        chosen, listing = directory.images_below(root)
        super().__init__(os.path.join(self._file.path, root).rstrip("/"), listing, more_notices)
        members = directory.members[chosen]
        self._offsets, self._sizes = compact(members["offset"]), compact(members["size"])
        self._checksums, self._deflated = members["checksum"].copy(), members["deflated"].copy()
        wrong = np.flatnonzero(~members["readable"])
        if len(wrong):
            raise UserError(
                f"{len(wrong):,} images of {path}, such as {self.name(int(wrong[0]))}, are encrypted or "
                "compressed by another method than deflate; expected a file as `zip -r0 FILE.zip FOLDER` "
                "writes it."
            )

    def __getitem__(self, index: int) -> bytes:
        index = self.position(index)
        offset, size = int(self._offsets[index]), int(self._sizes[index])
        header = read_at(self._file, offset, _HEADER)
        if header[:4] != b"PK\x03\x04":
            raise OSError(f"no member of the zip file at byte {offset:,}")
        skip = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
        data = read_at(self._file, offset + _HEADER + skip, size)
        if self._deflated[index]:
            data = zlib.decompress(data, -zlib.MAX_WBITS)
        if zlib.crc32(data) != self._checksums[index]:
            raise OSError("its checksum differs from the one in the zip file")
        return data


_MEMBER = np.dtype(
    [("offset", "i8"), ("size", "i8"), ("checksum", "u4"), ("deflated", "?"), ("readable", "?")]
)


class _Directory(NamedTuple):
    """The visible members of a zip file.

    paths: of its files, sorted. members: (n,) of dtype _MEMBER. folders: all of them, with "/" at the end.
    """

    paths: PathTable
    members: np.ndarray
    folders: frozenset[str]

    def children(self, root: str) -> tuple[str, ...]:
        """Return the sorted names of the folders right in a folder."""
        below = [folder[len(root) :] for folder in self.folders if folder.startswith(root)]
        return tuple(sorted({name.partition("/")[0] for name in below} - {""}))

    def root(self) -> str:
        """Return the folder that holds the data set: a single folder around others is entered."""
        root, with_files = "", set(map(os.fsdecode, self.paths.folders))
        while len(names := self.children(root)) == 1 and root.rstrip("/") not in with_files:
            inner = f"{root}{names[0]}/"
            if only_splits(names) or not self.children(inner):
                break
            root = inner
        return root

    def images_below(self, root: str) -> tuple[np.ndarray, Listing]:
        """Return the positions in `paths` of the images below a folder, and their listing."""
        inside = np.array([(os.fsdecode(name) + "/").startswith(root) for name in self.paths.folders], bool)
        positions = np.flatnonzero(inside[self.paths.folder_numbers()]) if len(self.paths) else ()
        chosen: list[int] = []
        names: list[bytes] = []
        others: Counter[tuple[str, str]] = Counter()
        for position in map(int, positions):
            path = self.paths[position][len(os.fsencode(root)) :]
            name = os.fsdecode(path)
            if is_image(extension(name)):
                chosen.append(position)
                names.append(path)
            else:
                others[name.rpartition("/")[0].partition("/")[0], extension(name)] += 1
        return np.array(chosen, np.int64), Listing(PathTable(names), frozenset(self.children(root)), others)


@functools.lru_cache(4)
def _divide(file: FileStamp) -> Division:
    """-> the splits of the data set in a zip file."""
    directory = _directory(file)
    root = directory.root()
    children = directory.children(root)
    if not any(map(split_of, children)):
        return Division({}, ())
    _, listing = directory.images_below(root)
    first = {os.fsdecode(folder).partition("/")[0] for folder in listing.paths.folders}
    return divide(children, first.__contains__, "" in first)


@functools.lru_cache(4)
def _directory(file: FileStamp) -> _Directory:
    try:
        with zipfile.ZipFile(file.path) as archive:
            infos = {info.filename: info for info in archive.infolist() if _is_visible(info.filename)}
    except (zipfile.BadZipFile, NotImplementedError, OSError, ValueError) as error:
        refuse_file(file, "zip", error)
    folders = {name.rpartition("/")[0] for name in infos} - {""}
    for folder in tuple(folders):
        folders.update(folder[: at.start()] for at in re.finditer("/", folder))
    files = sorted(name for name in infos if not name.endswith("/"))
    rows = [_member(infos[name]) for name in files]
    return _Directory(
        PathTable(map(os.fsencode, files)),
        np.array(rows, _MEMBER),
        frozenset(f"{name}/" for name in folders),
    )


def _is_visible(name: str) -> bool:
    return not name.startswith((".", "__MACOSX/")) and "/." not in name


def _member(info: zipfile.ZipInfo) -> tuple:
    """-> the row of a member in an array of dtype _MEMBER."""
    method = info.compress_type
    readable = method in _METHODS and not info.flag_bits & _ENCRYPTED
    return info.header_offset, info.compress_size, info.CRC, method == zipfile.ZIP_DEFLATED, readable
