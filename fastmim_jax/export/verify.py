"""`fastmim verify A B`: the same images through two checkpoints, layer by layer."""

from typing import NamedTuple

import jax
import numpy as np

from fastmim_jax.build import create_backbone
from fastmim_jax.errors import UserError
from fastmim_jax.export import model_folder as layouts
from fastmim_jax.export.convert import DEFAULT_OPTIONS, describe, open_source
from fastmim_jax.export.formats import LIBRARIES
from fastmim_jax.export.formats.names import flatten_variables
from fastmim_jax.export.to_torch import formats_for, to_torch
from fastmim_jax.models.base import layer_names, with_identity_norm

TOLERANCE = 1e-4  # largest difference, of the largest value of a layer: some 50 times float32's rounding
IMAGES = 2
HIDDEN = ("heads", "epsilon")  # attributes of backbones that no array's name tells
REFERENCES = {name: library.reference for name, library in LIBRARIES.items() if library.reference}


class Line(NamedTuple):
    """of: a layer. error: the largest difference. largest: the largest absolute value of the first side."""

    of: str
    error: float
    largest: float

    @property
    def passes(self):
        """Whether both sides agree; what is not finite never does."""
        return bool(self.error <= TOLERANCE * max(self.largest, 1e-6))


def verify(first, second, options=DEFAULT_OPTIONS, log=print):
    """Compares two checkpoints of the same model in whatever formats.

    The second runs in PyTorch, where a library there has its architecture; the first always here.

    Args:
      first, second: as the source of `convert`.
      options: of `convert`, for both.
      say: prints a line.

    Returns:
      Whether all layers agree to TOLERANCE.

    Raises:
      UserError: one cannot be read, or they are models of different shapes.
    """
    models = [open_source(path, options)[0] for path in (first, second)]
    for name, model in zip("AB", models, strict=True):
        log(f"{name:>12}  {model.origin}: {describe(model)}")
    _check_alike(*models)
    for text in _unlike(*(model.encoder for model in models)):
        log(f"{'but':>12}  {text}")
    ours, theirs = models
    images, noise = seen_images(ours.image_shape), _noise(ours)
    peer = _open_peer(theirs, log)
    found = ours_look(ours, images, noise)
    lines = compare(found, peer(images, noise)) if peer else []
    unseen = {name: x for name, x in found.items() if name not in {line.of for line in lines}}
    if unseen:  # in PyTorch, at least
        lines += compare(unseen, ours_look(theirs, images, _noise(theirs)), " (JAX)" * bool(peer))
    for text in _table(lines, ours, theirs):
        log(text)
    absent = [name for name in found if name not in {line.of.split(" (")[0] for line in lines}]
    if absent:
        log(f"{'not in B':>12}  {', '.join(absent)}")
    return bool(lines) and all(line.passes for line in lines)


def seen_images(shape):
    """(IMAGES, H, W, C) float32 as after normalisation: plane waves and noise, always the same."""
    height, width, channels = shape
    random = np.random.default_rng(0)
    rows, columns = np.mgrid[:height, :width] / max(height, width)
    waves = random.uniform(-40, 40, (2, IMAGES, 1, 1, channels))
    phase = random.uniform(0, 2 * np.pi, (IMAGES, 1, 1, channels))
    image = np.sin(waves[0] * rows[..., None] + waves[1] * columns[..., None] + phase)
    return (image + 0.3 * random.standard_normal(image.shape)).astype(np.float32)


def ours_look(model, images, noise=None):
    """{layer: array} of a Model here, in float32, named as by `Reference.outputs`."""
    section = model.section.copy_and_resolve_references()
    section.update(dtype="float32", kernel="xla", remat="none")
    encoder = create_backbone(section)
    inside = {name: tree["encoder"] for name, tree in model.variables.items() if "encoder" in tree}
    if model.pooling == "norm_pool":  # before the mean, so of every cell, as a backbone's last norm is
        inside["params"] = {**inside["params"], "norm": model.variables["params"]["pooling"]["norm"]}
    found = {}
    names, outputs = layer_outputs(encoder, inside, images)
    for name, encoded in zip(names, outputs, strict=True):
        found[name] = np.asarray(encoded.tokens)
    if outputs[-1].prefix.shape[1]:
        found["cls"] = np.asarray(outputs[-1].prefix[:, 0])
    network = model._replace(config=_with(model, section)).network()
    if model.classes:
        found["logits"] = np.asarray(jax.jit(network.apply)(model.variables, images))
    if noise is not None:
        out = jax.jit(lambda v, x: network.apply(v, x, noise=noise))(model.variables, images)
        found |= {"prediction": np.asarray(out.prediction), "loss": np.asarray(out.loss)}
    return found


def layer_outputs(encoder, variables, images):
    """-> (names of the layers, [Encoded] of each): the last as the backbone's own norm leaves it, if any.

    A classifier whose norm comes after its pooling has none in its backbone.
    """
    names, complete = layer_names(encoder), with_identity_norm(variables, encoder, images.shape[1:])
    if ("norm" in complete["params"]) == ("norm" in variables["params"]):
        return names, jax.jit(lambda v, x: encoder.apply(v, x, method="outputs"))(variables, images)

    def raw(v, x):
        *inner, _ = encoder.apply(v, x, method="outputs")
        return [*inner, encoder.apply(v, encoder.apply(v, x, method="embed"), method="transform")]

    return names, jax.jit(raw)(complete, images)


def compare(found, others, mark=""):
    """[Line] of every layer that both sides have; the rest is left out. mark: put behind their names."""
    lines = []
    for name, ours in found.items():
        if name in others:
            theirs = np.asarray(others[name])
            if theirs.shape != ours.shape and theirs.size == ours.size:
                theirs = theirs.reshape(ours.shape)
            error = np.abs(theirs - ours).max() if theirs.shape == ours.shape else np.inf
            lines.append(Line(name + mark, float(error), float(np.abs(ours).max())))
    return lines


def _open_peer(model, log):
    """-> (images, noise) -> {layer: array} in PyTorch; None where it cannot be, which is said."""
    libraries = {name: formats_for(model, name) for name in REFERENCES}
    refused = []
    # That of the file itself first, then one that has all of the model and not its backbone alone.
    order = sorted(
        (name for name in REFERENCES if libraries[name]),
        key=lambda name: (not model.format.startswith(name), libraries[name][0].kind != model.kind),
    )
    for library in order:
        try:
            written = to_torch(model, library)
            description = layouts.describe(model, written.format)
            module = REFERENCES[library].build(description, written.state)
        except UserError as error:
            refused.append(str(error))
            continue
        log(f"{'B runs in':>12}  {library}, {type(module).__name__}, PyTorch")
        takes_noise = written.format.kind == "mae"
        look = REFERENCES[library].outputs
        return lambda images, noise: look(module, images, **({"noise": noise} if takes_noise else {}))
    why = refused[0] if refused else f"no library there has {model.family}"
    log(f"{'B runs in':>12}  JAX, as A does, not in PyTorch: {why}")
    return None


def _check_alike(first, second):
    if first.family != second.family:
        raise UserError(
            f"these are different models, {describe(first)} and {describe(second)}: give two of the same"
        )
    if first.image_shape != second.image_shape:
        sizes = [f"{model.image_shape[0]} x {model.image_shape[1]}" for model in (first, second)]
        raise UserError(
            f"A is for images of {sizes[0]} pixels, B of {sizes[1]}: type "
            f'--set="data.image_size={tuple(second.image_shape[:2])}" where a file does not tell its size'
        )


def _unlike(first, second):
    """What arrays do not tell and would explain a difference, such as another number of heads."""
    for key in HIDDEN:
        sides = [getattr(encoder, key, None) for encoder in (first, second)]
        if sides[0] != sides[1]:
            yield f"A has {key} {sides[0]}, B {sides[1]}: say which by --set where a file does not tell"


def _noise(model):
    """What decides the mask of a pre-trained model; None for others."""
    if model.kind == "classifier":
        return None
    shape = model.network().noise_shape((IMAGES, *model.image_shape))
    return np.random.default_rng(1).random(shape, dtype=np.float32)


def _with(model, section):
    config = model.config.copy_and_resolve_references()
    config["method" if "method" in config else "model"] = section
    return config


def _table(lines, first, second):
    """The verdict as text."""
    yield f"{'':>12}  {'layer':<18} {'largest error':>14} {'of values up to':>16}"
    for line in lines:
        mark = "" if line.passes else "  <-- differs"
        yield f"{'':>12}  {line.of:<18} {line.error:>14.3g} {line.largest:>16.4g}{mark}"
    ours, theirs = flatten_variables(first.variables), flatten_variables(second.variables)
    both = [path for path in ours if path in theirs]
    equal = sum(np.array_equal(ours[path], theirs[path]) for path in both)
    yield f"{'arrays':>12}  {equal:,} of {len(both):,} that both have are equal to the bit"
    failed = [line.of for line in lines if not line.passes]
    told = f"{', '.join(failed)} differ by more than" if failed else f"all {len(lines)} layers agree within"
    yield f"{'verdict':>12}  {told} {TOLERANCE:g} of their largest value"
