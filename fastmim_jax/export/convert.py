"""`fastmim convert`: a checkpoint from one format to another, with a report of every array."""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

from fastmim_jax.errors import UserError
from fastmim_jax.export import model_folder
from fastmim_jax.export.bundle import ModelBundle, backbone_only, open_bundle, resize, write_workdir
from fastmim_jax.export.card import lineage_of_export
from fastmim_jax.export.destination.check import (
    ARRAY_FILES,
    FOLDERS,
    check_apart,
    check_name,
    check_replaceable,
    is_folder,
)
from fastmim_jax.export.destination.staging import clean_leftovers, staged
from fastmim_jax.export.files.array_files import Tensors, read_tensors
from fastmim_jax.export.formats import LIBRARIES
from fastmim_jax.export.formats.detect import find_format
from fastmim_jax.export.formats.names import flatten_variables
from fastmim_jax.export.formats.pixel_values import describe_values
from fastmim_jax.export.formats.prefixes import Choice, choose_prefix
from fastmim_jax.export.from_torch import LoadReport, check_finite, from_torch
from fastmim_jax.export.private_paths import shown_source, without_paths
from fastmim_jax.export.programs.onnx import write_onnx
from fastmim_jax.export.programs.stablehlo import describes, write_function
from fastmim_jax.export.to_torch import TorchArrays, parse_settings, to_torch
from fastmim_jax.io import read_json
from fastmim_jax.paths import check_output, is_store, place, utf8_path
from fastmim_jax.run_folder import CONFIG, find_checkpoint, is_checkpoint
from fastmim_jax.saved_config import override
from fastmim_jax.train.lineage import write_lineage
from fastmim_jax.train.remote.reading import local_run
from fastmim_jax.train.stop_signal import Stopped
from fastmim_jax.train.transfer import TransferReport, modules
from fastmim_jax.train.warm_start import has_checkpoint
from fastmim_jax.validate.names import count

PROGRAMS: dict[str, Callable[..., str]] = {"stablehlo": write_function, "onnx": write_onnx}
SHOWN_NAMES = 8  # in a line

Log = Callable[[str], None]


class Options(NamedTuple):
    """Flags of `fastmim convert`.

    format: of the source, a key of `formats.FORMATS`; "" to detect it.
    key: entry of the file with the arrays, such as "model_ema"; "" to find it.
    prefix: of the names of the model's arrays, or its end, such as "base_encoder"; None to find it.
    to: one of LIBRARIES or PROGRAMS; "" for a work directory or, by the destination's suffix, a file with
      the published names.
    step: which checkpoint of a work directory.
    encoder_only: export the backbone alone.
    partial: leave out unknown arrays and give missing ones initial values, instead of an error.
    image_size: (height, width) to resample positions to.
    settings: "key=value" of the config.
    overwrite: replace an export at the destination.
    with_paths: whether local paths may be in the files that are written.
    hub, licence: USER/NAME and the Hub's identifier of the licence, for the model card; "" for none.
    """

    format: str = ""
    key: str = ""
    prefix: str | None = None
    to: str = ""
    step: int | None = None
    encoder_only: bool = False
    partial: bool = False
    image_size: tuple[int, int] | None = None
    settings: tuple[str, ...] = ()
    overwrite: bool = False
    with_paths: bool = False
    hub: str = ""
    licence: str = ""


DEFAULT_OPTIONS = Options()


class Line(NamedTuple):
    """A line of a report: what it is about, and the text."""

    label: str
    text: str


@dataclass(frozen=True)
class SourceReport:
    """Report on a source that was read.

    Attributes:
      path: of the source.
      tensors: the arrays of a foreign file, and load: what became of them; both None for a work directory.
      origin: the checkpoint of a work directory.
      choice: which of the arrays were taken.
    """

    path: Path
    tensors: Tensors | None = None
    load: LoadReport | None = None
    origin: str = ""
    choice: Choice = Choice()

    def source(self, with_paths: bool = True) -> str:
        """Return the path of the source, or what may be said of it without."""
        return (self.origin or str(self.path)) if with_paths else shown_source(self.path, self.origin)

    def lines(self, with_paths: bool = True) -> Iterator[Line]:
        """Yield the lines of the report."""
        if self.tensors is None:
            yield Line("read", self.source(with_paths))
            return
        tensors = self.tensors
        entry = f" under '{tensors.wrapper}'" if tensors.wrapper else ""
        entry += f", without the prefix '{tensors.prefix}' of all names" if tensors.prefix else ""
        yield Line("read", f"{self.source(with_paths)}: {count(len(tensors.arrays), 'array')}{entry}")
        if tensors.ignored:
            yield Line("ignored", ", ".join(tensors.ignored))
        if tensors.unread:
            yield Line("not read", f"{tensors.unread}; nothing of these classes was imported or run")
        yield from _choice_lines(self.choice)
        if self.load is not None:
            yield from _load_lines(self.load)


@dataclass(frozen=True)
class WriteReport:
    """Report on what was written, for a library or as a work directory.

    Attributes:
      arrays: the arrays of a library's file or folder; None for a work directory or a program.
      opens_with: lines that open it in the library.
      next: a command that continues from a work directory.
      facts: on a program.
    """

    arrays: TorchArrays | None = None
    opens_with: tuple[str, ...] = ()
    next: str = ""
    facts: str = ""

    def lines(self) -> Iterator[Line]:
        """Yield the lines of the report."""
        if self.arrays is not None:
            fmt = self.arrays.format
            yield Line("as", f"{fmt.name}, {count(len(self.arrays.state), 'array')}")
            if self.arrays.dropped:
                yield Line("left out", f"{_modules(self.arrays.dropped)}: not in {fmt.library}")
        for text in self.opens_with:
            yield Line("opens with", text)
        if self.next:
            yield Line("next", self.next)


def convert(
    source: str | Path, destination: str | Path, options: Options = DEFAULT_OPTIONS, log: Log = print
) -> ModelBundle:
    """Convert a checkpoint, and return the model that was written.

    Args:
      source: a work directory or one of its checkpoints; or another library's file or folder.
      destination: a file that ends in .pth or .safetensors, or a folder; it appears when it is complete.
        Only what an earlier conversion wrote, and nobody has changed since, is replaced.
      log: prints a line.

    Raises:
      UserError: the source is not a complete checkpoint, or the destination cannot hold it.
      Stopped, KeyboardInterrupt: a signal came; nothing was changed.
    """
    destination = Path(utf8_path(destination))
    check_name(destination, options.to)
    if not is_store(source):
        check_apart(source, destination)
    clean_leftovers(destination, describes)
    check = partial(_check_place, destination, options)
    check(destination)
    if not destination.is_dir():
        check_output(destination)
    bundle, report = open_source(source, options)
    bundle = backbone_only(bundle) if options.encoder_only else bundle
    lines = [Line("model", bundle.description)]
    values = describe_values(bundle.config.data)
    lines += [Line("values", values)] if values else []
    if options.image_size and tuple(options.image_size) != tuple(bundle.config.data.image_size):
        bundle, resampled = resize(bundle, options.image_size)
        lines.append(_resample_line(options.image_size, resampled))
    _log_lines([*report.lines(), *lines], log)
    try:
        with staged(destination, check, describes) as path:
            written = _write(bundle, path, destination, options, report, lines)
    except Stopped as stopped:
        log(f"stopped by {stopped.name}")
        raise
    facts = f": {written.facts}" if written.facts else ""
    _log_lines([*written.lines(), Line("written", f"{destination}{facts}")], log)
    return bundle


def open_source(source: str | Path, options: Options = DEFAULT_OPTIONS) -> tuple[ModelBundle, SourceReport]:
    """Open a work directory, one of its checkpoints, or another library's file or folder.

    Raises:
      UserError: it is none of them, or not complete.
    """
    source = Path(local_run(place(source), options.step))
    if is_ours(source):
        bundle = open_bundle(source, options.step)
        check_finite(flatten_variables(bundle.variables))
        override(bundle.config, options.settings)
        return bundle, SourceReport(source, origin=bundle.origin)
    tensors = read_tensors(source, options.key or None)
    settings_of_ours = parse_settings(tensors.metadata)
    folder_settings = model_folder.read_settings(source) if source.is_dir() else {}
    settings = {**folder_settings, **settings_of_ours}
    fmt = find_format(options.format) if options.format else None
    # Our own files hold nothing but the model.
    choice = Choice() if settings_of_ours else choose_prefix(tensors.arrays, options.prefix, fmt)
    chosen = (name for name in tensors.arrays if name.startswith(choice.prefix))
    bundle, report = from_torch(
        {name.removeprefix(choice.prefix): tensors.arrays[name] for name in chosen},
        format_name=options.format or None,
        settings=settings,
        overrides=options.settings,
        partial=options.partial,
    )
    return bundle._replace(origin=str(source)), SourceReport(source, tensors, report, choice=choice)


def is_ours(path: str | Path) -> bool:
    """Return whether a path is a work directory or one of its checkpoints."""
    if not is_checkpoint(path):
        return False
    config = find_checkpoint(path).workdir / CONFIG
    try:
        keys = read_json(config, dict, "a config")
    except UserError:
        keys = {}
    return (("method" in keys or "model" in keys) and "data" in keys) or has_checkpoint(config.parent)


def _choice_lines(choice: Choice) -> Iterator[Line]:
    """Yield the lines on the prefix of the arrays that were taken."""
    if choice.prefix:
        reason = "as asked" if choice.given else "where most names are known"
        yield Line("prefix", f"'{choice.prefix}', {reason} (--prefix={choice.prefix.rstrip('.')})")
    if choice.others:
        shown = ", ".join(
            f"'{other}' (--prefix={other.rstrip('.')})" for other in choice.others[:SHOWN_NAMES]
        )
        yield Line("also there", f"{shown}: other backbones, not taken")
    if choice.outside:
        names = ", ".join(choice.outside[:SHOWN_NAMES]) + (" ..." * (len(choice.outside) > SHOWN_NAMES))
        yield Line("left out", f"{count(len(choice.outside), 'array')} outside of the prefix: {names}")


def _load_lines(report: LoadReport) -> Iterator[Line]:
    fmt = report.format
    yield Line("format", f"{fmt.name} ({fmt.library}: {fmt.family}, {fmt.kind})")
    yield Line("loaded", f"{count(len(report.loaded), 'array')}, {count(report.values, 'value')}")
    if report.cast:
        yield Line("cast", f"{', '.join(report.cast)} to float32")
    if report.recomputed:
        tables = count(len(report.recomputed), "sine-cosine table")
        yield Line("recomputed", f"{tables} of positions, equal to the file's")
    if report.buffers:
        yield Line("not needed", _tally(report.buffers, "."))
    if report.unknown_names:
        names = ", ".join(report.unknown_names[:SHOWN_NAMES])
        more = " ..." if len(report.unknown_names) > SHOWN_NAMES else ""
        yield Line("left out", f"{count(len(report.unknown_names), 'array')}: {names}{more}")
    if report.missing:
        yield Line("start fresh", _modules(report.missing))
    for assumption in report.assumptions:
        yield Line("assumed", str(assumption))
    if report.zero_biases:
        biases = count(report.zero_biases, "attention bias", "attention biases")
        yield Line("assumed", f"{biases} of zero: the file has none")


def _resample_line(image_size: tuple[int, int], report: TransferReport) -> Line:
    names = _tally(report.resampled, "/") or "no array depends on it"
    return Line("resampled", f"for {image_size[0]} x {image_size[1]} pixels: {names}")


def _tally(names: Iterable[str], separator: str) -> str:
    """Return "2 x bias, 1 x kernel" for the last parts of names."""
    counts = Counter(name.split(separator)[-1] for name in names)
    return ", ".join(f"{number} x {name}" for name, number in counts.items())


def _modules(paths: Iterable[str]) -> str:
    return ", ".join(modules([f"params/{path}" for path in paths]))


def _log_lines(lines: Iterable[Line], log: Log) -> None:
    """Log lines with a label in front, which is left out where it repeats."""
    previous = ""
    for label, text in lines:
        log(f"{'' if label == previous else label:>12}  {text}")
        previous = label


def _check_place(destination: Path, options: Options, path: Path) -> None:
    """Check that a path, the destination or what was there, may be replaced."""
    if path == destination and os.path.lexists(path) and not options.overwrite:
        raise UserError(f"{path} exists already: type --overwrite, or another destination")
    check_replaceable(path, is_folder(destination, options.to), described=options.to == "stablehlo")


def _write(
    bundle: ModelBundle,
    path: Path,
    destination: Path,
    options: Options,
    source: SourceReport,
    lines: list[Line],
) -> WriteReport:
    """Write a bundle to a path that will be moved to the destination -> WriteReport."""
    if options.to in PROGRAMS:
        return WriteReport(facts=PROGRAMS[options.to](bundle, path))
    if not options.to and destination.suffix not in ARRAY_FILES:
        report = [list(line) for line in (*source.lines(options.with_paths), *lines)]
        origin = {"source": source.source(options.with_paths), "format": bundle.format}
        lineage = lineage_of_export(bundle, options.with_paths)
        if not options.with_paths:
            bundle = bundle._replace(config=without_paths(bundle.config))
        write_workdir(bundle, path, {**origin, "told": report})
        if lineage is not None:
            write_lineage(path, lineage)
        command = f"fastmim finetune --config=configs/finetune.py --config.init={destination} ..."
        return WriteReport(next=command)
    arrays = to_torch(bundle, options.to or "official")
    if options.to in FOLDERS and destination.suffix not in ARRAY_FILES:
        code = model_folder.write_folder(
            bundle, arrays, path, destination, options.with_paths, options.hub, options.licence
        )
        return WriteReport(arrays, ("; ".join(line for line in code.splitlines() if line),))
    model_folder.write_arrays(path, bundle, arrays)
    spec = model_folder.spec_of(bundle, arrays.format)
    hints = LIBRARIES[arrays.format.library].file_hints(spec, destination)
    return WriteReport(arrays, tuple(hints))
