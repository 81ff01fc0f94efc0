"""The command `fastmim prepare`."""

import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from fastmim_jax.data.cpus import host_cpus
from fastmim_jax.data.records.manifest import Manifest, SplitFacts
from fastmim_jax.data.sources import Source
from fastmim_jax.errors import UserError
from fastmim_jax.tools.prepare.destination import (
    Destination,
    add_chunks,
    check_place,
    find_finished,
    library_versions,
    open_destination,
)
from fastmim_jax.tools.prepare.facts import ShardFacts, content_hash, split_facts
from fastmim_jax.tools.prepare.processes import run_tasks
from fastmim_jax.tools.prepare.progress import ImageProgress
from fastmim_jax.tools.prepare.settings import Settings, make_settings, open_splits
from fastmim_jax.tools.prepare.shards import ShardTask, ShardWriter, make_tasks
from fastmim_jax.tools.prepare.summary import summary_lines


class Terminated(BaseException):
    """SIGTERM arrived."""


def prepare(
    source: str,
    destination: str | None,
    *,
    layout: str = "jpeg",
    short_side: int = 256,
    quality: int | None = None,
    channels: int = 3,
    value_range: Sequence[str] = (),
    nodata: float | None = None,
    splits: Sequence[str] = (),
    workers: int | None = None,
    check: bool = False,
    with_paths: bool = False,
) -> int:
    """Write a data set as ArrayRecord shards of shrunk images, or only scan it, and print the facts.

    An interrupted preparation resumes: the files are the same bytes as those of an undisturbed one.

    Args:
      source: any data set that `open_source` opens.
      destination: a new folder; None with `check`.
      layout, short_side, quality, channels: see `Settings`; quality None is the default.
      value_range: words of the flag, () for a measured one.
      nodata: value of no measurement, which becomes the low end of the range, or None.
      splits: their names; () for all.
      workers: processes; None for one per core.
      check: only scan.
      with_paths: keep the path of the source in manifest.json.

    Returns:
      Exit code: 0, or 1 if a scan finds unreadable files, 130 after Ctrl-C, 143 after SIGTERM.

    Raises:
      UserError: the data, the destination or a setting cannot be used, or the disk is full.
    """
    if destination is None and not check:
        raise UserError("no destination: type `fastmim prepare SRC DST`, or `--check` to scan only")
    if destination is not None:
        check_place(source, destination)
    sources = open_splits(source, splits)
    settings = make_settings(
        source,
        sources,
        layout=layout,
        short_side=short_side,
        quality=quality,
        channels=channels,
        value_range=value_range,
        nodata=nodata,
    )
    workers = workers or host_cpus()
    try:
        with _sigterm():
            if check or destination is None:
                return _scan(sources, settings, workers)
            return _prepare(sources, settings, destination, workers, with_paths)
    except (KeyboardInterrupt, Terminated) as stop:
        name, code = ("SIGTERM", 143) if isinstance(stop, Terminated) else ("Ctrl-C", 130)
        print(f"stopped by {name}" + ("" if check else "; rerun the same command to resume"))
        return code
    except OSError as error:
        reason = (error.strerror or str(error)).partition(";")[0]
        raise UserError(
            f"{destination or source}: {reason}. Finished shards stay: make room or "
            "repair the disk, and rerun the same command to resume."
        ) from error


def _scan(sources: Mapping[str, Source], settings: Settings, workers: int) -> int:
    """Print the facts of a data set; return 1 if files cannot be read."""
    tasks = make_tasks(settings.records)
    done = _run(ShardWriter(sources, settings, None, None), tasks, {}, workers)
    facts = _facts_of_splits(sources, settings, tasks, done)
    for line in summary_lines(facts, settings):
        print(line)
    return 1 if any(split.unreadable for split in facts.values()) else 0


def _prepare(
    sources: Mapping[str, Source], settings: Settings, path: str, workers: int, with_paths: bool
) -> int:
    manifest = find_finished(path, settings)
    if manifest is not None:
        done = "added the positions of its records" if add_chunks(path, manifest) else "nothing to do"
        print(f"{path} is finished already; {done} (to prepare it anew, `rm -r {path}` first)")
        return 0
    with open_destination(path, settings) as destination:
        manifest = _write(sources, settings, destination, workers, with_paths)
    for line in summary_lines(manifest.splits, settings):
        print(line)
    print(f"train on it: --config.data.path={path}")
    return 0


def _write(
    sources: Mapping[str, Source],
    settings: Settings,
    destination: Destination,
    workers: int,
    with_paths: bool,
) -> Manifest:
    tasks = make_tasks(settings.records)
    finished = destination.finished_shards(tasks)
    if finished:
        print(f"resuming with {len(finished):,} of {len(tasks):,} shards finished")
    work = ShardWriter(sources, settings, str(destination.path), str(destination.unfinished))
    done = _run(work, tasks, finished, workers)
    splits = _facts_of_splits(sources, settings, tasks, done)
    manifest = Manifest(
        settings=settings.public(with_paths),
        layout=settings.layout,
        dtype=settings.dtype,
        channels=settings.channels,
        value_range=settings.value_range,
        libraries=library_versions(),
        splits=splits,
        sha256=content_hash(list(splits.values())),
    )
    shards = {name: [done[task] for task in tasks if task.split == name] for name in sources}
    destination.finish(manifest, shards)
    return manifest


def _run(
    work: ShardWriter, tasks: Sequence[ShardTask], finished: Mapping[ShardTask, ShardFacts], workers: int
) -> dict[ShardTask, ShardFacts]:
    """Do the tasks that are not finished, with a progress line; return the facts of all."""
    done = dict(finished)
    left = [task for task in tasks if task not in done]
    total = sum(task.stop - task.start for task in tasks)
    with ImageProgress(total, total - sum(task.stop - task.start for task in left)) as progress:
        for task, facts in run_tasks(work, left, workers, progress.add):
            done[task] = facts
    return done


def _facts_of_splits(
    sources: Mapping[str, Source],
    settings: Settings,
    tasks: Sequence[ShardTask],
    done: Mapping[ShardTask, ShardFacts],
) -> dict[str, SplitFacts]:
    """Return {split: facts}; raises UserError where no image of a split can be read."""
    splits = {}
    for name, source in sources.items():
        shards = [done[task] for task in tasks if task.split == name]
        if not any(shard.labels for shard in shards):
            unreadable, reason = next(item for shard in shards for item in shard.unreadable)
            raise UserError(
                f"None of the {settings.records[name]:,} images of the split {name} can be read, such as "
                f"{unreadable} ({reason}): expected images; type --splits=NAMES to leave a split out."
            )
        splits[name] = split_facts(shards, source.classes, settings.value_range)
    return splits


@contextmanager
def _sigterm() -> Iterator[None]:
    """Raise Terminated where SIGTERM arrives in the block."""

    def stop(*_: Any) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
