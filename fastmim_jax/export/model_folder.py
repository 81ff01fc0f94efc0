"""Folders that libraries open: weights, a description or a detector's files, and a model card."""

import json
import shutil
from pathlib import Path
from typing import Any

from fastmim_jax.errors import UserError
from fastmim_jax.export.bundle import ModelBundle
from fastmim_jax.export.card import model_card
from fastmim_jax.export.files.array_files import write_pth, write_safetensors
from fastmim_jax.export.formats import LIBRARIES
from fastmim_jax.export.formats.library import MAESpec, ModelSpec
from fastmim_jax.export.formats.pixel_values import rescaling
from fastmim_jax.export.formats.rules import Format
from fastmim_jax.export.to_torch import TorchArrays, dump_settings
from fastmim_jax.io import read_json
from fastmim_jax.validate.names import count

WEIGHTS = "model.safetensors"


def spec_of(bundle: ModelBundle, fmt: Format) -> ModelSpec:
    """Return the ModelSpec of a model that is written in a format."""
    section, data = bundle.section, bundle.config.data
    mae = None
    if fmt.kind == "mae":
        mae = MAESpec(dict(section.decoder), section.mask_ratio, section.normalize_target)
    height, width, channels = bundle.image_shape
    pixels = dict(mean=tuple(data.mean), std=tuple(data.std), rescaling=rescaling(data))
    return ModelSpec(
        bundle.encoder, (height, width), channels, bundle.pooling, bundle.classes, mae=mae, **pixels
    )


def describe(bundle: ModelBundle, fmt: Format) -> dict[str, Any]:
    """Return the library's own description of a model, as JSON.

    Raises:
      UserError: the library has no such model.
    """
    describe_spec = LIBRARIES[fmt.library].describe
    if describe_spec is None:
        raise UserError(f"{fmt.library} has no description of a model: choose another --to=")
    return describe_spec(spec_of(bundle, fmt))


def write_folder(
    bundle: ModelBundle,
    arrays: TorchArrays,
    folder: str | Path,
    destination: str | Path,
    with_paths: bool = False,
    hub: str = "",
    licence: str = "",
) -> str:
    """Write the folder of a library.

    Args:
      arrays: of the model, in a format of a library with a `folder`.
      folder: where to write; created.
      destination: where the folder will be moved to, for the lines that open it.
      with_paths: whether the model card may hold local paths.
      hub, licence: see `convert.Options`.

    Returns:
      Python lines that open it.

    Raises:
      UserError: the library opens no folders, or has no such model.
    """
    library, folder = LIBRARIES[arrays.format.library].folder, Path(folder)
    if library is None:
        raise UserError(f"{arrays.format.library} opens no folders: choose another --to=")
    spec, detector = spec_of(bundle, arrays.format), library.detector
    texts = detector.files(_headless(spec)) if detector else {}
    description = {} if detector else describe(bundle, arrays.format)
    contents = {} if detector else {"config.json": description, **library.files(spec)}
    texts |= {name: json.dumps(content, indent=2) + "\n" for name, content in contents.items()}
    absolute = Path(destination).absolute()
    code = library.code(description, absolute)
    card_code = library.code(description, Path(hub or (absolute if with_paths else absolute.name)))
    folder.mkdir(parents=True, exist_ok=True)
    write_arrays(folder / (detector.weights if detector else WEIGHTS), bundle, arrays)
    curve = _copy_curve(bundle, folder)
    sections = detector.card(spec) if detector else ""
    card = model_card(bundle, card_code, library.package, curve, with_paths, licence, sections)
    for name, text in {**texts, "README.md": card}.items():
        (folder / name).write_text(text)
    return code


def _headless(spec: ModelSpec) -> ModelSpec:
    """Return a ModelSpec for a detector, which has no place for a classifier."""
    if spec.classes:
        raise UserError(
            "a detector takes the backbone alone, and this model has a head of "
            f"{count(len(spec.classes), 'class', 'classes')}: type --encoder_only"
        )
    return spec


def write_arrays(path: Path, bundle: ModelBundle, arrays: TorchArrays) -> None:
    """Write the arrays of a model as a .pth or .safetensors file, by its suffix.

    Raises:
      UserError: torch is not installed, for .pth; or the file cannot hold the arrays.
    """
    settings = dump_settings(bundle)
    if path.suffix == ".pth":
        write_pth(path, arrays.state, settings, LIBRARIES[arrays.format.library].wrapper)
    else:
        write_safetensors(path, arrays.state, settings)


def _copy_curve(bundle, folder):
    """Copy the picture of the run's loss to the folder and return its name; None if there is none."""
    picture = bundle.workdir and Path(bundle.workdir) / "pictures" / "curve.png"
    if not picture or not picture.exists():
        return None
    shutil.copy(picture, folder / picture.name)
    return picture.name


def read_settings(folder: str | Path) -> dict[str, Any]:
    """Return the `settings` of `from_torch` from the config.json of a library's folder, {} without one.

    Raises:
      UserError: it cannot be read, or describes a model that the backbones here cannot express.
    """
    path = Path(folder) / "config.json"
    if not path.exists():
        return {}
    config = read_json(path, dict, "the config.json of a model: fetch it again")
    folders = [library.folder for library in LIBRARIES.values() if library.folder]
    readers = (x.read_settings for x in folders if any(key in config for key in x.keys))
    read = next(readers, None)
    return read(config) if read else {}
