"""Folders that Hugging Face's transformers and timm open: weights, their config.json and a model card."""

import json
import shutil
from pathlib import Path

from fastmim_jax.errors import UserError
from fastmim_jax.export.array_files import write_safetensors
from fastmim_jax.export.card import model_card
from fastmim_jax.export.formats import LIBRARIES
from fastmim_jax.export.formats.library import MAESpec, ModelSpec

WEIGHTS = "model.safetensors"


def spec_of(model, fmt):
    """The ModelSpec of a Model that is written in a Format."""
    section, data = model.section, model.config.data
    mae = None
    if fmt.kind == "mae":
        mae = MAESpec(dict(section.decoder), section.mask_ratio, section.normalize_target)
    *size, channels = model.image_shape
    statistics = tuple(data.mean), tuple(data.std)
    return ModelSpec(model.encoder, tuple(size), channels, model.pooling, model.classes, *statistics, mae)


def describe(model, fmt):
    """The library's own description of a Model, as JSON.

    Raises:
      UserError: the library has no such model.
    """
    return LIBRARIES[fmt.library].describe(spec_of(model, fmt))


def write_folder(model, written, folder, shown):
    """Writes a folder of "timm" or "hf".

    Args:
      model: export.model.Model.
      written: outward.Written.
      folder: where to; made here.
      shown: where it will be when all is done, for what the card says.

    Returns:
      The Python lines that open it.
    """
    opens, folder = LIBRARIES[written.format.library].folder, Path(folder)
    spec, description = spec_of(model, written.format), describe(model, written.format)
    lines = opens.code(description, shown)
    folder.mkdir(parents=True, exist_ok=True)
    write_safetensors(folder / WEIGHTS, written.state)
    for name, content in {"config.json": description, **opens.files(spec)}.items():
        (folder / name).write_text(json.dumps(content, indent=2) + "\n")
    curve = _copied_curve(model, folder)
    (folder / "README.md").write_text(model_card(model, lines, opens.package, curve))
    return lines


def _copied_curve(model, folder):
    """The name of a picture of the run's loss, copied to the folder; None where there is none."""
    picture = model.workdir and Path(model.workdir) / "pictures" / "curve.png"
    if not picture or not picture.exists():
        return None
    shutil.copy(picture, folder / picture.name)
    return picture.name


def read_settings(folder):
    """What the config.json of a foreign folder tells of its arrays, as `inward.from_torch` takes it.

    Raises:
      UserError: it cannot be read, or is of a model that ours cannot be like.
    """
    path = Path(folder) / "config.json"
    if not path.exists():
        return {}
    try:
        config = json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path} cannot be read ({error}): expected the config.json of a model") from error
    folders = [library.folder for library in LIBRARIES.values() if library.folder]
    readers = (x.read_settings for x in folders if any(key in config for key in x.keys))
    read = next(readers, None)
    return read(config) if read else {}
