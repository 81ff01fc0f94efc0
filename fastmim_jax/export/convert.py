"""`fastmim convert`: a checkpoint from one format to another, told array by array."""

import json
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fastmim_jax.config import finetune_config
from fastmim_jax.errors import UserError
from fastmim_jax.export import model_folder as layouts
from fastmim_jax.export.array_files import read_tensors, write_pth, write_safetensors
from fastmim_jax.export.bundle import open_bundle, write_workdir
from fastmim_jax.export.formats import LIBRARIES
from fastmim_jax.export.formats.names import flatten_variables
from fastmim_jax.export.from_torch import from_torch, with_last_norm
from fastmim_jax.export.infer_config import override
from fastmim_jax.export.programs.onnx import write_onnx
from fastmim_jax.export.programs.stablehlo import write_function
from fastmim_jax.export.to_torch import note_of, settings_of, to_torch
from fastmim_jax.io import atomic_write
from fastmim_jax.train.transfer import modules, transfer

FOLDERS = tuple(name for name, library in LIBRARIES.items() if library.folder)
FILES = {".pth": write_pth, ".safetensors": write_safetensors}
OTHER_FILES = (".pt", ".bin", ".ckpt", ".tar", ".npz", ".h5", ".onnx", ".msgpack")
PROGRAMS = {"stablehlo": write_function, "onnx": write_onnx}


class Options(NamedTuple):
    """What `fastmim convert` can be told.

    format: of the source, a key of `formats.FORMATS`; "" to find out. key: under which the file has them.
    to: one of LIBRARIES or PROGRAMS; "" for our own work directory or, by the destination's ending, the
      published names. step: which checkpoint of a work directory.
    encoder_only: the backbone alone. partial: go on without what is missing or unknown.
    image_size: (height, width) to resample positions to. settings: "key=value" of the config.
    overwrite: what is at the destination.
    """

    format: str = ""
    key: str = ""
    to: str = ""
    step: int | None = None
    encoder_only: bool = False
    partial: bool = False
    image_size: tuple[int, int] | None = None
    settings: tuple[str, ...] = ()
    overwrite: bool = False


DEFAULT_OPTIONS = Options()


def convert(source, destination, options=DEFAULT_OPTIONS, log=print):
    """Converts a checkpoint.

    Args:
      source: a work directory or one of its checkpoints; or another library's file or folder.
      destination: a file that ends in .pth or .safetensors, or a folder; appears when it is complete.
      options: Options.
      say: prints a line.

    Raises:
      UserError: the source is no checkpoint, or not all of one; the destination cannot hold it.
    """
    destination = Path(destination).expanduser()
    _check_destination(destination, options)
    model, lines = open_source(source, options)
    model = _encoder_of(model) if options.encoder_only else model
    lines += [("model", describe(model))]
    if options.image_size and tuple(options.image_size) != tuple(model.config.data.image_size):
        model, told = resized(model, options.image_size)
        lines += told
    tell(lines, log)
    if options.to in PROGRAMS:
        tell([("written", PROGRAMS[options.to](model, destination, overwrite=options.overwrite))], log)
        return
    with atomic_write(destination, overwrite=options.overwrite) as path:
        told = _write(model, path, destination, options, lines)
    tell([*told, ("written", str(destination))], log)


def tell(lines, log):
    """Says [(label, text)], a repeated label once."""
    before = ""
    for label, text in lines:
        log(f"{'' if label == before else label:>12}  {text}")
        before = label


def is_ours(path):
    """Whether a path is a work directory or one of its checkpoints."""
    path = Path(path).expanduser()
    config = (path.parent.parent if path.name.isdigit() else path) / "config.json"
    if not config.exists():
        return False
    try:
        keys = json.loads(config.read_text())
    except ValueError:
        return False
    return isinstance(keys, dict) and ("method" in keys or "model" in keys) and "data" in keys


def open_source(source, options=DEFAULT_OPTIONS):
    """-> (Model, [(label, text)] of what was found, loaded and left)."""
    source = Path(source).expanduser()
    if is_ours(source):
        model = open_bundle(source, options.step)
        override(model.config, options.settings)
        return model, [("read", model.origin)]
    tensors = read_tensors(source, options.key or None)
    settings = layouts.settings_of(source) if source.is_dir() else settings_of(tensors.note)
    model, account = from_torch(
        tensors.arrays,
        format_name=options.format or None,
        settings=settings,
        overrides=options.settings,
        partial=options.partial,
    )
    return model._replace(origin=str(source)), [*_found(source, tensors), *_told(account, model)]


def _found(source, tensors):
    under = f" under '{tensors.wrapper}'" if tensors.wrapper else ""
    under += f", without '{tensors.prefix}' before each name" if tensors.prefix else ""
    yield "read", f"{source}: {len(tensors.arrays):,} arrays{under}"
    if tensors.others:
        yield "not read", ", ".join(tensors.others)


def _told(account, model):
    """[(label, text)] of an inward.Account."""
    known, values = account.format, sum(x.size for x in flatten_variables(model.variables).values())
    counts = Counter(name.split(".")[-1] for name in account.unread)
    yield "format", f"{known.name} ({known.library}: {known.family}, {known.kind})"
    yield "loaded", f"{len(account.loaded):,} arrays, {values:,} values"
    if account.cast:
        yield "cast", f"{', '.join(account.cast)} to float32"
    if account.fixed:
        yield "made anew", f"{len(account.fixed)} sine-cosine tables of positions, as the file has them"
    if counts:
        yield "not needed", ", ".join(f"{count} x {name}" for name, count in counts.items())
    if account.unknown:
        yield "left out", f"{len(account.unknown)} arrays: {', '.join(account.unknown[:8])}"
    if account.missing:
        yield "start fresh", ", ".join(modules([f"params/{path}" for path in account.missing]))
    for note in account.notes:
        yield "assumed", note


def describe(model):
    """What a Model is, in a line."""
    height, width, channels = model.image_shape
    what = f"{len(model.classes):,} classes, {model.pooling}" if model.classes else "a bare backbone"
    kind = what if model.kind == "classifier" else model.kind
    return f"{model.section.backbone.name} ({kind}), {height} x {width} pixels, {channels} channels"


def resized(model, image_size):
    """-> (the Model for images of another (height, width), [(label, text)])."""
    config = model.config.copy_and_resolve_references()
    config.data.image_size = tuple(image_size)
    larger = model._replace(config=config)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), larger.shapes())
    variables, report = transfer(model.variables, zeros, model.encoder.resampling)
    if report.fresh:
        raise UserError(
            f"{', '.join(modules(report.fresh))} cannot be resampled to {image_size[0]} x {image_size[1]} "
            "pixels: leave --image_size out"
        )
    tables = Counter(path.split("/")[-1] for path in report.resampled)
    told = ", ".join(f"{count} x {name}" for name, count in tables.items()) or "nothing needs it"
    size = f"{image_size[0]} x {image_size[1]} pixels"
    return larger._replace(variables=jax.device_get(variables)), [("resampled", f"for {size}: {told}")]


def _check_destination(destination, options):
    if options.to and options.to not in (*LIBRARIES, *PROGRAMS):
        raise UserError(f"unknown --to={options.to}: there is {', '.join((*LIBRARIES, *PROGRAMS))}")
    if destination.suffix in OTHER_FILES and options.to not in PROGRAMS:
        raise UserError(
            f"{destination} is no kind of file that is written here: type a name that ends in "
            f"{' or '.join(FILES)}, such as {destination.with_suffix('.pth')}, or a folder's"
        )
    if options.to and options.to not in (*FOLDERS, *PROGRAMS) and destination.suffix not in FILES:
        raise UserError(
            f"--to={options.to} writes a file, and {destination} ends in neither {' nor '.join(FILES)}: "
            f"type {destination}.safetensors"
        )
    if destination.exists() and not options.overwrite:
        raise UserError(f"{destination} is there already: type --overwrite, or another destination")


def _write(model, path, destination, options, lines):
    """Writes a Model to a path that will become the destination -> [(label, text)]."""
    if not options.to and destination.suffix not in FILES:
        write_workdir(model, path, _conversion(model, lines))
        return [("next", f"fastmim finetune --config=configs/finetune.py --config.init={destination} ...")]
    written = to_torch(model, options.to or "official")
    told = [("as", f"{written.format.name}, {len(written.state):,} arrays")]
    if written.dropped:
        left = ", ".join(modules([f"params/{x}" for x in written.dropped]))
        told += [("left out", f"{left}, which {written.format.library} has no place for")]
    if options.to in FOLDERS and destination.suffix not in FILES:
        lines = layouts.write_folder(model, written, path, destination)
        return [*told, ("opens with", "; ".join(line for line in lines.splitlines() if line))]
    FILES[destination.suffix](path, written.state, note_of(model))
    return [*told, *_opening(model, written, destination)]


def _opening(model, written, destination):
    """[(label, text)] on how the library opens the file."""
    spec = layouts.spec_of(model, written.format)
    lines = LIBRARIES[written.format.library].file_hints(spec, destination)
    return [("opens with", line) for line in lines]


def _encoder_of(model):
    """The bare backbone of a Model; the norm of its pooling becomes the last one, where that has none."""
    config = finetune_config()
    config.data = model.config.data if model.kind == "classifier" else config.data
    config.data.update({key: model.config.data[key] for key in ("image_size", "channels", "mean", "std")})
    config.model.backbone.update({key: x for key, x in model.section.backbone.items() if x is not None})
    config.model.dtype = "float32"
    params = {name: tree for name, tree in model.variables["params"].items() if name != "head"}
    variables = with_last_norm({**model.variables, "params": params})
    trees = {name: {"encoder": x["encoder"]} for name, x in variables.items() if "encoder" in x}
    return model._replace(config=config, variables=trees, classes=())


def _conversion(model, lines):
    return {"source": model.origin, "format": model.format, "told": [list(line) for line in lines]}
