"""The folder of a prepared data set: refused, resumed, finished."""

import contextlib
import dataclasses
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from fastmim_jax.data.records.index import has_chunks, write_chunks, write_index
from fastmim_jax.data.records.manifest import (
    FILE,
    SETTINGS,
    UNFINISHED,
    Manifest,
    is_prepared,
    load_manifest,
)
from fastmim_jax.data.sources.joined import split_path
from fastmim_jax.data.sources.pread import stamp
from fastmim_jax.data.sources.riegeli import find_chunks
from fastmim_jax.errors import UserError
from fastmim_jax.file_lock import try_lock
from fastmim_jax.io import read_json, write_json
from fastmim_jax.paths import local_path, utf8_path
from fastmim_jax.tools.prepare.facts import ShardFacts
from fastmim_jax.tools.prepare.settings import Settings, describe_differences
from fastmim_jax.tools.prepare.shards import ShardTask, load_facts

_LIBRARIES = "pillow", "simplejpeg", "cykooz-resizer", "array-record"


def check_place(source: str, destination: str) -> None:
    """Check that the destination does not lie in a folder of the data set, nor such a folder in it.

    Raises:
      UserError: it does, or they are the same.
    """
    ours = os.path.realpath(utf8_path(destination))
    for path in filter(os.path.exists, split_path(source)):
        theirs = os.path.realpath(path)
        if os.path.commonpath([theirs, ours]) not in (theirs, ours):
            continue
        raise UserError(
            f"{destination} and {path} lie in one another: the prepared images would be taken for "
            "original ones; type a destination outside of the data set."
        )


def library_versions() -> dict[str, str]:
    """Return {library: version} of the libraries that decode, resize, encode and write."""
    versions = {}
    for name in _LIBRARIES:
        with contextlib.suppress(PackageNotFoundError):
            versions[name] = version(name)
    return versions


class Destination:
    """The folder that a preparation writes, locked.

    Attributes:
      path: of the folder. unfinished: folder inside it for temporary files and the facts of each shard.
    """

    def __init__(self, path: Path):
        self.path, self.unfinished = path, path / UNFINISHED

    def finished_shards(self, tasks: Sequence[ShardTask]) -> dict[ShardTask, ShardFacts]:
        """Return the facts of the shards that an earlier run has finished, and remove its other files."""
        finished = {}
        for task in tasks:
            facts = load_facts(self.unfinished / task.facts_file)
            shard = self.path / task.file
            if facts and (not facts.file or (shard.is_file() and shard.stat().st_size == facts.bytes)):
                if facts.file and not facts.chunks:  # an earlier version wrote it
                    facts.chunks = find_chunks(stamp(shard), len(facts.labels))
                finished[task] = facts
        for leftover in self.unfinished.glob("*.tmp"):
            leftover.unlink(missing_ok=True)
        return finished

    def finish(self, manifest: Manifest, shards: dict[str, list[ShardFacts]]) -> None:
        """Write the indices of the splits, then the manifest, which makes the data set readable."""
        for split, facts in shards.items():
            labels = [label for shard in facts for label in shard.labels]
            names = [name for shard in facts for name in shard.names]
            write_index(str(self.path / split), labels, names)
            write_chunks(str(self.path / split), [chunk for shard in facts for chunk in shard.chunks])
        write_json(self.path / FILE, manifest.to_json())
        shutil.rmtree(self.unfinished)


@contextmanager
def open_destination(path: str, settings: Settings) -> Iterator[Destination]:
    """Create a destination or open the one of an interrupted run; the folder is locked in the block.

    Raises:
      UserError: a file, a folder with other files, one prepared with other settings, or one that another
        process writes to.
    """
    folder = Path(local_path(path))
    _check_foreign(folder)
    destination = Destination(folder)
    try:
        destination.unfinished.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{folder} cannot be written ({error.strerror}): type another destination"
        ) from error
    with _lock(destination):
        content = {"settings": dataclasses.asdict(settings), "libraries": library_versions()}
        file = destination.unfinished / SETTINGS
        if file.exists():
            expected = f"the settings of a preparation: type rm -r {folder} to prepare it anew"
            _compare(folder, settings, read_json(file, dict, expected))
        else:
            write_json(file, content)
        yield destination


def find_finished(path: str, settings: Settings) -> Manifest | None:
    """Return the manifest if the destination is finished, None if there is something to do.

    Raises:
      UserError: it was prepared with other settings.
    """
    folder = Path(local_path(path))
    if not (is_prepared(str(folder)) and (folder / FILE).is_file()):
        return None
    manifest = load_manifest(str(folder))
    _compare(folder, settings, {"settings": manifest.settings})
    shutil.rmtree(folder / UNFINISHED, ignore_errors=True)  # of a run that was killed at its very end
    return manifest


def add_chunks(path: str, manifest: Manifest) -> bool:
    """Add the positions of the records to the index that an earlier version wrote; return whether it did.

    Raises:
      OSError: a shard cannot be read, or is damaged.
    """
    folder, added = Path(path).expanduser(), False
    for split, facts in manifest.splits.items():
        if has_chunks(str(folder / split)):
            continue
        found = [find_chunks(stamp(folder / shard.file), shard.records) for shard in facts.shards]
        write_chunks(str(folder / split), [chunk for shard in found for chunk in shard])
        added = True
    return added


def _check_foreign(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file: type the name of a new folder")
    if not folder.is_dir() or is_prepared(str(folder)):
        return
    if others := {*os.listdir(folder)} - {UNFINISHED}:
        shown = ", ".join(sorted(others)[:3]) + (", ..." if len(others) > 3 else "")
        raise UserError(
            f"{folder} is not empty and was not written by `fastmim prepare` ({shown}): type the name of "
            "a new folder; nothing was changed"
        )


def _compare(folder: Path, settings: Settings, earlier: dict[str, Any]) -> None:
    """Raise UserError if an earlier preparation differs in its settings or libraries."""
    before = earlier.get("settings")
    differences = describe_differences(settings, before if isinstance(before, dict) else {})
    if not differences and isinstance(earlier.get("libraries"), dict):
        now = library_versions()
        differences = ", ".join(
            f"{name} {earlier['libraries'].get(name, 'missing')} (now {now.get(name, 'missing')})"
            for name in _LIBRARIES
            if earlier["libraries"].get(name) != now.get(name)
        )
    if differences:
        raise UserError(
            f"{folder} was prepared with {differences}: use the same settings, or another destination, "
            f"or `rm -r {folder}` first to prepare it anew; nothing was changed"
        )


@contextmanager
def _lock(destination: Destination) -> Iterator[None]:
    """Keep other processes from writing to the same folder."""
    with open(destination.unfinished / "lock", "w") as file:
        if not try_lock(file):
            raise UserError(
                f"Another `fastmim prepare` is writing to {destination.path}: wait for it or stop it first."
            )
        yield
