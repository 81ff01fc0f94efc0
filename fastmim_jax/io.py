"""Write files atomically; read JSON files, which may be damaged; append and read JSON lines."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeVar, overload

from fastmim_jax.errors import UserError
from fastmim_jax.paths import local_path

JsonType = TypeVar("JsonType")


@contextmanager
def atomic_write(path: str | os.PathLike, overwrite: bool = True) -> Iterator[Path]:
    """Yield a path to write a file at; it replaces the file `path` when the block ends without error.

    A reader sees the old content or the new one, never a part. After an error nothing has changed, also
    not in the folders above. Missing parent folders are created.

    Args:
      path: the destination.
      overwrite: False refuses a destination that exists. A folder is never replaced.

    Raises:
      UserError: the destination exists and must not be replaced, or its folder cannot be written to.
    """
    path = Path(local_path(path))
    if os.path.lexists(path) and not overwrite:
        raise UserError(f"{path} exists already: give another destination, or overwrite=True to replace it")
    if path.is_dir():
        raise UserError(f"{path} is a folder, expected the name of a file: type another name")
    created = [folder for folder in path.parents if not folder.exists()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # A folder and not another file name: torch.save writes the file's name into the file. Its own is
        # short, as names end at 255 bytes.
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name[:20]}.", dir=path.parent))
    except OSError as error:
        remove_empty(created)
        raise UserError(
            f"{path} cannot be written ({error.strerror}): expected a folder that can be written to"
        ) from error
    try:
        yield temporary / path.name
        os.replace(temporary / path.name, path)
        created = []
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        remove_empty(created)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write a text file atomically, in UTF-8, surrogates as \\udcXX; raises as `atomic_write`."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_json(path: str | os.PathLike, value: Any, indent: int | None = 1) -> None:
    """Write a value as a JSON file atomically; raises as `atomic_write`."""
    write_text(path, json.dumps(value, indent=indent) + "\n")


@overload
def read_json(path: str | os.PathLike, kind: type[JsonType], expected: str) -> JsonType: ...


@overload
def read_json(path: str | os.PathLike, kind: tuple[type, ...], expected: str) -> Any: ...


def read_json(path: str | os.PathLike, kind: Any, expected: str) -> Any:
    """Return the content of a JSON file that another process, a crash or a user may have damaged.

    Args:
      kind: dict, list or both, of the content.
      expected: what the file should be and what to type, for the message: "the config of a run: ...".

    Raises:
      UserError: there is no such file, or it cannot be read, or it holds something else.
    """
    try:
        data = Path(path).read_bytes()
        value = json.loads(data.decode())
        seen = f"it holds {_describe_json(value)}"
    except OSError as error:
        value, seen = None, error.strerror or str(error)
    except UnicodeDecodeError:
        value, seen = None, "it is not UTF-8 text"
    except (ValueError, RecursionError) as error:
        problem = "it is not JSON" if isinstance(error, RecursionError) else f"it is not JSON: {error}"
        value, seen = None, problem if data.strip() else "it is empty"
    if not isinstance(value, kind):
        raise UserError(f"{path} cannot be read ({seen}), expected {expected}")
    return value


def _describe_json(value: Any) -> str:
    names = {
        dict: "a JSON object",
        list: "a JSON list",
        str: "a text",
        type(None): "null",
        bool: "a boolean",
    }
    return names.get(type(value), "a number")


class JsonLines(NamedTuple):
    """Records of a file with one JSON object per line.

    records: the complete lines, decoded. dropped: number of lines cut off or damaged by a crash.
    """

    records: list[dict]
    dropped: int


def read_json_lines(path: str | os.PathLike) -> JsonLines:
    """Read the complete lines of a JSON-lines file; a missing file has none.

    Raises:
      UserError: the file cannot be read.
    """
    path, records, dropped = Path(path), [], 0
    try:
        lines = path.read_bytes().split(b"\n") if os.path.lexists(path) else []
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}), expected a file: move it out of the way"
        ) from error
    for line in filter(None, lines):
        try:
            record = json.loads(line.decode())
        except (ValueError, RecursionError):
            record = None
        if isinstance(record, dict):
            records.append(record)
        else:
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
    except (ValueError, RecursionError):
        file.truncate(start)
    else:
        file.write(b"\n")


def remove_empty(folders: Iterable[Path]) -> None:
    """Remove folders, innermost first, until one is not empty or does not exist."""
    for folder in folders:
        try:
            folder.rmdir()
        except OSError:
            return
