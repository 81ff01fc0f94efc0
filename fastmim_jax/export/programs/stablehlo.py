"""An inference function in one file that needs neither this package nor Flax: StableHLO by `jax.export`.

The file is opened by

    function = jax.export.deserialize(open(path, "rb").read())
    function.call(images)  # (B, H, W, C), any B -> {name: (B, ...) float32}

Images are uint8, or uint16 or float32 where the model was trained on more bits (`pixel_dtype`).
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fastmim_jax.build import create_backbone, create_reader
from fastmim_jax.data.values import WHITE
from fastmim_jax.errors import UserError
from fastmim_jax.export.bundle import ModelBundle
from fastmim_jax.export.destination.contents import file_sha256
from fastmim_jax.export.formats.pixel_values import describe_values
from fastmim_jax.io import atomic_write, read_json
from fastmim_jax.paths import local_path

PLATFORMS = ("cpu", "cuda", "tpu")
ALL_PLATFORMS = (*PLATFORMS, "rocm")
SOURCE_FILES = "jax_hlo_source_file_canonicalization_regex"  # what is removed from names of source files
SIGNATURE = "description_sha256"  # of the other entries of the description
MAX_GIB = 1.9  # of parameters; FlatBuffers and ONNX files end at 2
# Replaces the run's own settings, whose kernels not every platform has.
PORTABLE = dict(dtype="float32", kernel="xla", remat="none", layers="unrolled")
MEANINGS = {
    "logits": "what the head gives, of every class",
    "probabilities": "softmax of the logits",
    "mean": "mean over the normalised tokens of the last layer, without cls",
    "cls": "normalised cls token of the last layer",
}


def write_function(
    bundle: ModelBundle,
    path: str | Path,
    platforms: Sequence[str] = PLATFORMS,
    overwrite: bool = False,
) -> str:
    """Write a model's inference function, and beside it `path`.json, which describes inputs and outputs.

    Pixels are normalised inside and parameters are constants. All is computed in float32, whatever the
    config says, with the platform's default matrix precision. JAX opens the file for at least six months
    after the version that wrote it (its export guarantee).

    Args:
      bundle: a classifier gives logits and probabilities; another model, and a backbone without a head,
        the features of its last layer, as `fastmim features` does.
      platforms: of ALL_PLATFORMS, those that the file runs on.
      overwrite: replace a file at `path`.

    Returns:
      Facts on the file in words, without its path.

    Raises:
      UserError: an unknown platform, more parameters than MAX_GIB, a backbone without a final norm, or a
        path that exists.
    """
    _check_platforms(platforms)
    check_size(bundle)
    path = Path(local_path(path))
    function = lower(bundle, platforms)
    names = dict(function=path.name, platforms=list(platforms), jax=jax.__version__)
    names |= dict(opens_with=f"jax.export.deserialize(open({path.name!r}, 'rb').read()).call(images)")
    with (
        atomic_write(path, overwrite) as file,
        atomic_write(path.with_name(f"{path.name}.json"), overwrite) as beside,
    ):
        file.write_bytes(function.serialize())
        content = {**names, "sha256": file_sha256(file), **describe(bundle)}
        beside.write_text(json.dumps({**content, SIGNATURE: _sign(content)}, indent=1) + "\n")
        size = file.stat().st_size
    (height, width, channels), dtype = bundle.image_shape, pixel_dtype(bundle)
    return (
        f"{size / 2**20:.1f} MiB, {dtype} images (B, {height}, {width}, {channels}) to "
        f"{', '.join(output_names(bundle))} in float32, on {', '.join(platforms)}; described "
        f"in {path.name}.json"
    )


def describes(program: Path, description: Path) -> bool:
    """Return whether `write_function` wrote two files together, and nobody has changed them."""
    try:
        content = read_json(description, dict, "the description of a program")
        signature = content.pop(SIGNATURE, "")
        return signature == _sign(content) and content["sha256"] == file_sha256(program)
    except (UserError, OSError, KeyError):
        return False


def _sign(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def lower(bundle: ModelBundle, platforms: Sequence[str]) -> jax.export.Exported:
    """Export the function of a model: (B, H, W, C), any B -> {name: (B, ...) float32}."""
    (batch,) = jax.export.symbolic_shape("b")
    images = jax.ShapeDtypeStruct((batch, *bundle.image_shape), pixel_dtype(bundle))
    function = jax.jit(jax.vmap(image_function(bundle)))  # vmap: models need a batch size that is a number
    with _without_source_files():
        return jax.export.export(function, platforms=platforms)(images)


@contextmanager
def _without_source_files() -> Iterator[None]:
    """Leave the paths of source files out of the locations in programs."""
    before = getattr(jax.config, SOURCE_FILES)
    jax.config.update(SOURCE_FILES, ".*")
    try:
        yield
    finally:
        jax.config.update(SOURCE_FILES, before)


def image_function(bundle: ModelBundle) -> Callable[[jax.Array], dict[str, jax.Array]]:
    """Return the function of one image, (H, W, C) -> {name: float32}, with constant parameters.

    Raises:
      UserError: a backbone without a final norm.
    """
    bundle = _portable(bundle)
    normalize = create_reader(bundle.config).normalize
    outputs_of = _classifier(bundle) if bundle.classes else _feature_extractor(bundle)

    def function(image):
        values = outputs_of(normalize(image[None], None))
        return {name: x[0].astype(jnp.float32) for name, x in values.items()}

    return function


def pixel_dtype(bundle: ModelBundle) -> np.dtype:
    """Return the dtype of the images of a model's function."""
    return create_reader(bundle.config).pixel_dtype


def output_names(bundle: ModelBundle) -> tuple[str, ...]:
    """Return the names of the outputs of a model's function."""
    if bundle.classes:
        return ("logits", "probabilities")
    return ("mean", "cls") if "cls_token" in bundle.variables["params"]["encoder"] else ("mean",)


def describe(bundle: ModelBundle) -> dict[str, Any]:
    """Return a description of the inputs and outputs of a model's function, as JSON."""
    reader = create_reader(bundle.config)
    dtype = reader.pixel_dtype.name
    shapes = jax.eval_shape(image_function(bundle), jax.ShapeDtypeStruct(bundle.image_shape, dtype))
    meaning = f"pixels, 0 to {WHITE[dtype]}, b any number"
    values = describe_values(bundle.config.data)
    images = dict(shape=["b", *bundle.image_shape], dtype=dtype, meaning=meaning)
    images |= {"values": values} if values else {}
    return dict(
        backbone=bundle.backbone_name,
        input=dict(name="images", **images),
        outputs={
            name: dict(shape=["b", *shapes[name].shape], dtype="float32", meaning=MEANINGS[name])
            for name in output_names(bundle)
        },
        normalized_inside=dict(mean=list(reader.mean), std=list(reader.std), of=f"pixels / {WHITE[dtype]}"),
        image_size=list(bundle.image_shape[:2]),
        resize=bundle.config.data.get("eval_resize"),  # short side before the centre crop; null: the usual
        classes=list(bundle.classes) or None,
    )


def check_size(bundle: ModelBundle):
    """Raise UserError if a file cannot hold the parameters as constants."""
    size = sum(x.nbytes for x in jax.tree.leaves(bundle.variables)) / 2**30
    if size > MAX_GIB:
        raise UserError(
            f"the parameters are {size:.1f} GiB, and a file of a function holds at most {MAX_GIB}: "
            "type --to=hf for a folder of arrays"
        )


def _portable(bundle):
    """Return the same model with the settings of PORTABLE."""
    config = bundle.config.copy_and_resolve_references()
    bundle = bundle._replace(config=config)
    bundle.section.update(PORTABLE)
    return bundle


def _classifier(bundle):
    network = bundle.network()

    def outputs_of(images):
        logits = network.apply(bundle.variables, images)
        return {"logits": logits, "probabilities": jax.nn.softmax(logits)}

    return outputs_of


def _feature_extractor(bundle):
    encoder = create_backbone(bundle.section)
    variables = {name: tree["encoder"] for name, tree in bundle.variables.items() if "encoder" in tree}
    if "norm" not in variables["params"]:
        raise UserError(
            f"the backbone of {bundle.origin or 'this model'} has no final norm, which features need: "
            "give a classifier with its head, or a pre-trained checkpoint"
        )

    def outputs_of(images):
        encoded = encoder.apply(variables, images)
        features = {"mean": encoded.tokens.mean((1, 2)), "cls": encoded.cls}
        return {name: features[name] for name in output_names(bundle)}

    return outputs_of


def _check_platforms(platforms):
    unknown = [name for name in platforms if name not in ALL_PLATFORMS]
    if unknown or not platforms:
        seen = f"unknown platform '{unknown[0]}'" if unknown else "no platform given"
        raise UserError(f"{seen}; choose from: {', '.join(ALL_PLATFORMS)}")
