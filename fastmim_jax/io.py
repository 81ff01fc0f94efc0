"""Write files and folders atomically; append and read JSON lines."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from fastmim_jax.errors import UserError
from fastmim_jax.paths import local_path


@contextmanager
def atomic_write(path: str | os.PathLike, overwrite: bool = True) -> Iterator[Path]:
    """Yield a path to write a file or a folder at; it replaces `path` when the block ends without error.

    A reader sees the old content or the new one, never a part. After an error nothing has changed, also
    not in the folders above. Missing parent folders are created.

    Args:
      path: the destination.
      overwrite: False refuses a destination that exists.

    Raises:
      UserError: the destination exists and must not be replaced, or its folder cannot be written to.
    """
    path = Path(local_path(path))
    if os.path.lexists(path) and not overwrite:
        raise UserError(f"{path} exists already: give another destination, or overwrite=True to replace it")
    created = [folder for folder in path.parents if not folder.exists()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # A folder and not another file name: torch.save writes the file's name into the file. Its own is
        # short, as names end at 255 bytes.
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name[:20]}.", dir=path.parent))
    except OSError as error:
        _remove_empty(created)
        raise UserError(
            f"{path} cannot be written ({error.strerror}): expected a folder that can be written to"
        ) from error
    try:
        yield temporary / path.name
        _replace(temporary / path.name, path, backup=temporary / ("old" if path.name != "old" else "older"))
        created = []
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        _remove_empty(created)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write a text file atomically, in UTF-8, surrogates as \\udcXX; raises as `atomic_write`."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_json(path: str | os.PathLike, value: Any, indent: int | None = 1) -> None:
    """Write a value as a JSON file atomically; raises as `atomic_write`."""
    write_text(path, json.dumps(value, indent=indent) + "\n")


class JsonLines(NamedTuple):
    """Records of a file with one JSON object per line.

    records: the complete lines, decoded. dropped: number of lines cut off or damaged by a crash.
    """

    records: list[dict]
    dropped: int


def read_json_lines(path: str | os.PathLike) -> JsonLines:
    """Read the complete lines of a JSON-lines file; a missing file has none."""
    path, records, dropped = Path(path), [], 0
    if path.exists():
        for line in path.read_bytes().splitlines():
            try:
                records.append(json.loads(line))
            except ValueError:
                dropped += 1
    return JsonLines(records, dropped)


def write_json_lines(path: str | os.PathLike, records: Iterable[Mapping]) -> None:
    """Write a JSON-lines file atomically; raises as `atomic_write`."""
    write_text(path, "".join(json.dumps(record) + "\n" for record in records))


def append_json_line(path: str | os.PathLike, record: Mapping) -> None:
    """Append a record to a JSON-lines file; floats keep every bit. An unfinished last line is removed."""
    with Path(path).open("a+b") as file:
        _finish_last_line(file)
        file.write((json.dumps(record) + "\n").encode())


def _finish_last_line(file: BinaryIO) -> None:
    """Make a file end with a complete line or be empty."""
    end = file.seek(0, os.SEEK_END)
    if not end:
        return
    file.seek(end - 1)
    if file.read() == b"\n":
        return
    file.seek(0)
    content = file.read()
    start = content.rfind(b"\n") + 1
    try:
        json.loads(content[start:])
    except ValueError:
        file.truncate(start)
    else:
        file.write(b"\n")


def _replace(new: Path, path: Path, backup: Path) -> None:
    """Move `new` to `path`; whatever `os.replace` cannot overwrite is moved to `backup` first."""
    if not path.is_dir() and not new.is_dir():
        os.replace(new, path)
        return
    if os.path.lexists(path):
        os.rename(path, backup)
    try:
        os.rename(new, path)
    except BaseException:
        if os.path.lexists(backup):
            os.rename(backup, path)
        raise


def _remove_empty(folders: list[Path]) -> None:
    """Remove folders, innermost first, until one is not empty or does not exist."""
    for folder in folders:
        try:
            folder.rmdir()
        except OSError:
            return
