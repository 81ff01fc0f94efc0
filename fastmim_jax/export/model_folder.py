"""Folders that Hugging Face's transformers and timm open: weights, their config.json and a model card."""

import json
import shutil
from pathlib import Path

from fastmim_jax.build import create_reader
from fastmim_jax.errors import UserError
from fastmim_jax.export.array_files import write_safetensors
from fastmim_jax.export.card import model_card
from fastmim_jax.export.formats.huggingface import describe as huggingface_peer
from fastmim_jax.export.formats.huggingface import keys as huggingface
from fastmim_jax.export.formats.timm import describe as timm_peer
from fastmim_jax.export.formats.torchvision import keys as torchvision

WEIGHTS = "model.safetensors"


def describe(model, known):
    """The library's own description of a Model, as JSON.

    known: rules.Format that it is written in.

    Raises:
      UserError: the library has no such model.
    """
    what = dict(channels=model.image_shape[2], pooling=model.pooling, classes=len(model.classes))
    size = model.image_shape[:2]
    if known.library == "timm":
        data = model.config.data
        more = dict(mean=list(data.mean) or None, std=list(data.std) or None)
        description = timm_peer.describe(model.encoder, size, **what, **more)
        return description | ({"label_names": list(model.classes)} if model.classes else {})
    if known.library == "torchvision":
        return torchvision.describe(model.encoder, size, **what)
    if known.kind == "mae":
        section = model.section
        return huggingface_peer.describe_mae(
            model.encoder,
            dict(section.decoder),
            size,
            what["channels"],
            section.mask_ratio,
            section.normalize_target,
        )
    description = huggingface_peer.describe(model.encoder, size, **what)
    if model.classes:
        names = dict(enumerate(model.classes))
        description |= {"id2label": names, "label2id": {name: index for index, name in names.items()}}
    return description


def usage(library, description, folder):
    """Python lines that open a folder."""
    if library == "timm":
        path = Path(folder).absolute()
        return f"import timm\n\nmodel = timm.create_model('local-dir:{path}', pretrained=True)"
    (name,) = description["architectures"]
    return f"from transformers import {name}\n\nmodel = {name}.from_pretrained('{Path(folder).absolute()}')"


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
    library, folder = written.format.library, Path(folder)
    description = describe(model, written.format)
    lines = usage(library, description, shown)
    folder.mkdir(parents=True, exist_ok=True)
    write_safetensors(folder / WEIGHTS, written.state)
    (folder / "config.json").write_text(json.dumps(description, indent=2) + "\n")
    if library == "hf":
        (folder / "preprocessor_config.json").write_text(json.dumps(_preprocessor(model), indent=2) + "\n")
    curve = _copied_curve(model, folder)
    (folder / "README.md").write_text(model_card(model, lines, _name(library), curve))
    return lines


def _name(library):
    return {"hf": "transformers"}.get(library, library)


def _copied_curve(model, folder):
    """The name of a picture of the run's loss, copied to the folder; None where there is none."""
    picture = model.workdir and Path(model.workdir) / "pictures" / "curve.png"
    if not picture or not picture.exists():
        return None
    shutil.copy(picture, folder / picture.name)
    return picture.name


def _preprocessor(model):
    """What transformers' image processors need to know; images are resized to the model's own size."""
    height, width, _ = model.image_shape
    reader = create_reader(model.config)
    return {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": {"height": height, "width": width},
        "resample": 3,  # bicubic
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(map(float, reader.mean)),
        "image_std": list(map(float, reader.std)),
    }


def settings_of(folder):
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
    if "model_type" in config:
        return huggingface.settings(config)
    return timm_peer.settings(config)
