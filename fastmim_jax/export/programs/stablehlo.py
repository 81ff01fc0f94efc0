"""An inference function in one file that needs neither this package nor Flax: StableHLO by `jax.export`.

The file is opened by

    function = jax.export.deserialize(open(path, "rb").read())
    function.call(images)  # (B, H, W, C) uint8, any B -> {name: (B, ...) float32}
"""

import json
from pathlib import Path

import jax
import jax.numpy as jnp

from fastmim_jax.build import create_backbone, create_reader
from fastmim_jax.errors import UserError
from fastmim_jax.io import atomic_write

PLATFORMS = ("cpu", "cuda", "tpu")
ALL_PLATFORMS = (*PLATFORMS, "rocm")
LARGEST = 1.9  # GiB of parameters; FlatBuffers and ONNX files end at 2
# Whatever the run was trained with: what every platform has, and names no kernel of one of them.
PORTABLE = dict(dtype="float32", kernel="xla", remat="none", layers="unrolled")
MEANINGS = {
    "logits": "what the head gives, of every class",
    "probabilities": "softmax of the logits",
    "mean": "mean over the normalised tokens of the last layer, without cls",
    "cls": "normalised cls token of the last layer",
}


def write_function(model, path, platforms=PLATFORMS, overwrite=False):
    """Writes what a model does with images, and beside it `path`.json, which tells what goes in and out.

    Pixels are normalised inside and parameters are constants. All is computed in float32, whatever the
    config says, with the matrix precision that is usual on the platform. JAX opens the file for at least
    six months after the version that wrote it (its export guarantee).

    Args:
      model: `model.ModelBundle`. A classifier gives logits and probabilities; another model, and a backbone
        without a head, the features of its last layer, as `fastmim features` does.
      path: of the file.
      platforms: of KNOWN, those that it is to run on.
      overwrite: what is there.

    Returns:
      What was written, a sentence.

    Raises:
      UserError: an unknown platform, parameters beyond LARGEST, a backbone without a final norm, a path
        that exists.
    """
    _check_platforms(platforms)
    check_size(model)
    path = Path(path).expanduser()
    function = lower(model, platforms)
    names = dict(function=path.name, platforms=list(platforms), jax=jax.__version__)
    names |= dict(opens_with=f"jax.export.deserialize(open({path.name!r}, 'rb').read()).call(images)")
    told = json.dumps({**names, **describe(model)}, indent=1) + "\n"
    with (
        atomic_write(path, overwrite) as file,
        atomic_write(path.with_name(f"{path.name}.json"), overwrite) as beside,
    ):
        file.write_bytes(function.serialize())
        beside.write_text(told)
        size = file.stat().st_size
    height, width, channels = model.image_shape
    return (
        f"{path} ({size / 2**20:.1f} MiB): uint8 images (B, {height}, {width}, {channels}) to "
        f"{', '.join(outputs(model))} in float32, on {', '.join(platforms)}; {path.name}.json tells more"
    )


def lower(model, platforms):
    """A `jax.export.Exported` of a model: (B, H, W, C) uint8, any B -> {name: (B, ...) float32}."""
    (batch,) = jax.export.symbolic_shape("b")
    images = jax.ShapeDtypeStruct((batch, *model.image_shape), jnp.uint8)
    function = jax.jit(jax.vmap(image_function(model)))  # models ask for the length of a batch as a number
    return jax.export.export(function, platforms=platforms)(images)


def image_function(model):
    """The function of one image, (H, W, C) uint8 -> {name: float32}, its parameters NumPy constants.

    Raises:
      UserError: a backbone without a final norm.
    """
    model = _portable(model)
    normalize = create_reader(model.config).normalize
    look = _classifying(model) if model.classes else _describing(model)

    def function(image):
        found = look(normalize(image[None], jnp.zeros(1, bool)))
        return {name: x[0].astype(jnp.float32) for name, x in found.items()}

    return function


def outputs(model):
    """Names of what the function of a model gives."""
    if model.classes:
        return ("logits", "probabilities")
    return ("mean", "cls") if "cls_token" in model.variables["params"]["encoder"] else ("mean",)


def describe(model):
    """What goes into and comes out of the function of a model, as JSON has it."""
    shapes = jax.eval_shape(image_function(model), jax.ShapeDtypeStruct(model.image_shape, jnp.uint8))
    reader = create_reader(model.config)
    images = dict(shape=["b", *model.image_shape], dtype="uint8", meaning="pixels, 0 to 255, b any number")
    return dict(
        backbone=model.section.backbone.name,
        input=dict(name="images", **images),
        outputs={
            name: dict(shape=["b", *shapes[name].shape], dtype="float32", meaning=MEANINGS[name])
            for name in outputs(model)
        },
        normalized_inside=dict(mean=list(reader.mean), std=list(reader.std), of="pixels / 255"),
        image_size=list(model.image_shape[:2]),
        resize=model.config.data.get("eval_resize"),  # short side before the centre crop; null: the usual
        classes=list(model.classes) or None,
    )


def check_size(model):
    """Raises UserError if the parameters of a Model are more than a file holds as constants."""
    size = sum(x.nbytes for x in jax.tree.leaves(model.variables)) / 2**30
    if size > LARGEST:
        raise UserError(
            f"the parameters are {size:.1f} GiB, and one file of a function holds up to {LARGEST}: "
            "type --to=hf for a folder of arrays"
        )


def _portable(model):
    """The same Model, computed by PORTABLE."""
    config = model.config.copy_and_resolve_references()
    model = model._replace(config=config)
    model.section.update(PORTABLE)
    return model


def _classifying(model):
    network = model.network()

    def look(images):
        logits = network.apply(model.variables, images)
        return {"logits": logits, "probabilities": jax.nn.softmax(logits)}

    return look


def _describing(model):
    encoder = create_backbone(model.section)
    variables = {name: tree["encoder"] for name, tree in model.variables.items() if "encoder" in tree}
    if "norm" not in variables["params"]:
        raise UserError(
            f"the backbone of {model.origin or 'this model'} has no final norm, which the features need: "
            "give a classifier with its head, or a pre-trained checkpoint"
        )

    def look(images):
        tokens, prefix = encoder.apply(variables, images)
        found = {"mean": tokens.mean((1, 2)), "cls": prefix[:, :1].sum(1)}
        return {name: found[name] for name in outputs(model)}

    return look


def _check_platforms(platforms):
    unknown = [name for name in platforms if name not in ALL_PLATFORMS]
    if unknown or not platforms:
        seen = f"unknown platform '{unknown[0]}'" if unknown else "no platform is given"
        raise UserError(f"{seen}: there is {', '.join(ALL_PLATFORMS)}")
