"""`fastmim verify A B`: the same images through two checkpoints, compared layer by layer."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from fastmim_jax.build import create_backbone, create_method
from fastmim_jax.errors import UserError
from fastmim_jax.export import model_folder
from fastmim_jax.export.bundle import BareBackbone, ModelBundle
from fastmim_jax.export.convert import DEFAULT_OPTIONS, Log, Options, open_source
from fastmim_jax.export.formats import LIBRARIES
from fastmim_jax.export.formats.names import flatten_variables
from fastmim_jax.export.to_torch import formats_for, to_torch
from fastmim_jax.models.base import Backbone, EncoderOutput, with_identity_norm
from fastmim_jax.validate.names import count

TOLERANCE = 1e-4  # largest difference, of the largest value of a layer: some 50 times float32's rounding
IMAGES = 2
UNSEEN = ("heads", "epsilon")  # attributes of backbones that no array determines
REFERENCES = {name: library.reference for name, library in LIBRARIES.items() if library.reference}

Outputs = dict[str, np.ndarray]  # {layer: values}


@dataclass(frozen=True)
class Comparison:
    """A layer of A against the same layer of B.

    Attributes:
      layer: its name, such as "block 3".
      backend: what computed B's, such as "PyTorch" or "JAX".
      error: the largest absolute difference; inf for another shape.
      largest: the largest absolute value of A's.
    """

    layer: str
    backend: str
    error: float
    largest: float

    @property
    def passes(self) -> bool:
        """Whether both agree; values that are not finite never do."""
        return bool(self.error <= TOLERANCE * max(self.largest, 1e-6))


@dataclass(frozen=True)
class OpenedReference:
    """The model B in the library.

    Attributes:
      library: a key of REFERENCES.
      class_name: of the module.
      backend: see `formats.library.Reference`.
      outputs: (images, noise) -> Outputs.
    """

    library: str
    class_name: str
    backend: str
    outputs: Callable[[np.ndarray, np.ndarray | None], Outputs]


def verify(
    first: str | Path, second: str | Path, options: Options = DEFAULT_OPTIONS, log: Log = print
) -> bool:
    """Compare two checkpoints of the same model, in any formats.

    The second runs in PyTorch or Keras if a library there has its architecture; the first always in JAX.

    Args:
      first, second: sources of `convert`.
      options: of `convert`, for both.
      log: prints a line.

    Returns:
      Whether all layers agree to TOLERANCE.

    Raises:
      UserError: one cannot be read, or they are models of different shapes.
    """
    ours, theirs = (open_source(path, options)[0] for path in (first, second))
    return verify_bundles(ours, theirs, log)


def verify_bundles(ours: ModelBundle, theirs: ModelBundle, log: Log = print) -> bool:
    """Compare two opened models; see `verify`."""
    for name, bundle in (("A", ours), ("B", theirs)):
        _log(log, name, f"{bundle.origin}: {bundle.description}")
    _check_comparable(ours, theirs)
    for text in _differing_attributes(ours.encoder, theirs.encoder):
        _log(log, "but", text)
    images, noise = sample_images(ours.image_shape), _noise(ours)
    reference, reason = _open_reference(theirs)
    if reference:
        _log(log, "B runs in", f"{reference.library}, {reference.class_name}, {reference.backend}")
    else:
        _log(log, "B runs in", f"JAX, as A does, not in PyTorch: {reason}")
    outputs, comparisons = layer_outputs(ours, images, noise), []
    if reference:
        comparisons = compare(outputs, reference.outputs(images, noise), reference.backend)
    remaining = {name: x for name, x in outputs.items() if name not in _layers(comparisons)}
    if remaining:
        comparisons += compare(remaining, layer_outputs(theirs, images, _noise(theirs)), "JAX")
    for text in _table(comparisons, marks_jax=reference is not None):
        log(text)
    _log(log, "arrays", _equal_arrays(ours, theirs))
    _log(log, "verdict", _verdict(comparisons))
    absent = [name for name in outputs if name not in _layers(comparisons)]
    if absent:
        _log(log, "not in B", ", ".join(absent))
    return bool(comparisons) and all(comparison.passes for comparison in comparisons)


def sample_images(shape: tuple[int, int, int]) -> np.ndarray:
    """Return (IMAGES, H, W, C) float32, normalised: always the same plane waves and noise."""
    height, width, channels = shape
    random = np.random.default_rng(0)
    rows, columns = np.mgrid[:height, :width] / max(height, width)
    waves = random.uniform(-40, 40, (2, IMAGES, 1, 1, channels))
    phase = random.uniform(0, 2 * np.pi, (IMAGES, 1, 1, channels))
    image = np.sin(waves[0] * rows[..., None] + waves[1] * columns[..., None] + phase)
    return (image + 0.3 * random.standard_normal(image.shape)).astype(np.float32)


def layer_outputs(bundle: ModelBundle, images: np.ndarray, noise: np.ndarray | None = None) -> Outputs:
    """Return the outputs of all layers in float32, named as by `formats.library.Reference`."""
    section = bundle.section.copy_and_resolve_references()
    section.update(dtype="float32", kernel="xla", remat="none")
    encoder = create_backbone(section)
    variables = {name: tree["encoder"] for name, tree in bundle.variables.items() if "encoder" in tree}
    if bundle.pooling == "norm_pool":  # it precedes the mean: a norm of every token, as a last norm is
        norm = bundle.variables["params"]["pooling"]["norm"]
        variables["params"] = {**variables["params"], "norm": norm}
    names, encoded = encoder_outputs(encoder, variables, images)
    outputs = {name: np.asarray(x.tokens) for name, x in zip(names, encoded, strict=True)}
    if encoded[-1].prefix.shape[1]:
        outputs["cls"] = np.asarray(encoded[-1].cls)
    network = bundle._replace(config=_with_section(bundle, section)).network()
    if bundle.classes and not isinstance(network, BareBackbone):
        outputs["logits"] = np.asarray(jax.jit(network.apply)(bundle.variables, images))
    if noise is not None and not isinstance(network, BareBackbone):
        out = jax.jit(lambda v, x: network.apply(v, x, noise=noise))(bundle.variables, images)
        outputs |= {"prediction": np.asarray(out.prediction), "loss": np.asarray(out.loss)}
    return outputs


def encoder_outputs(
    encoder: Backbone, variables: Mapping, images: np.ndarray
) -> tuple[Sequence[str], list[EncoderOutput]]:
    """Return the names of a backbone's layers and their outputs, [Encoded].

    The last layer is normalised by the backbone's own norm if the variables have one; a classifier whose
    norm follows its pooling has none in its backbone.
    """
    names, complete = encoder.layer_names, with_identity_norm(variables, encoder, images.shape[1:])
    if ("norm" in complete["params"]) == ("norm" in variables["params"]):
        return names, jax.jit(lambda v, x: encoder.apply(v, x, method="outputs"))(variables, images)

    def without_norm(v: Any, x: jax.Array) -> list[EncoderOutput]:
        *inner, _ = encoder.apply(v, x, method="outputs")
        return [*inner, encoder.apply(v, encoder.apply(v, x, method="embed"), method="transform")]

    return names, jax.jit(without_norm)(complete, images)


def compare(ours: Mapping[str, np.ndarray], theirs: Mapping, backend: str) -> list[Comparison]:
    """Compare all layers that both have.

    Args:
      backend: what computed `theirs`.
    """
    comparisons = []
    for name, x in ours.items():
        if name in theirs:
            other = np.asarray(theirs[name])
            other = other.reshape(x.shape) if other.size == x.size else other
            error = np.abs(other - x).max() if other.shape == x.shape else np.inf
            comparisons.append(Comparison(name, backend, float(error), float(np.abs(x).max())))
    return comparisons


def _open_reference(bundle: ModelBundle) -> tuple[OpenedReference | None, str]:
    """-> (OpenedReference, "") or (None, why no library has the model)."""
    formats = {name: formats_for(bundle, name) for name in REFERENCES}
    # The library of the file itself first, then one that has the model and not only its backbone.
    libraries = sorted(
        (name for name in REFERENCES if formats[name]),
        key=lambda name: (not bundle.format.startswith(name), formats[name][0].kind != bundle.kind),
    )
    reasons = []
    for library in libraries:
        try:
            arrays = to_torch(bundle, library)
            description = model_folder.describe(bundle, arrays.format)
            module = REFERENCES[library].build(description, arrays.state)
        except UserError as error:
            reasons.append(str(error))
            continue
        compute, takes_noise = REFERENCES[library].outputs, arrays.format.kind == "mae"

        def outputs(
            images: np.ndarray,
            noise: np.ndarray | None,
            module: Any = module,
            compute: Callable = compute,
            takes_noise: bool = takes_noise,
        ) -> Outputs:
            return compute(module, images, **({"noise": noise} if takes_noise else {}))

        return OpenedReference(library, type(module).__name__, REFERENCES[library].backend, outputs), ""
    return None, reasons[0] if reasons else f"no library there has {bundle.family}"


def _check_comparable(first: ModelBundle, second: ModelBundle) -> None:
    if first.family != second.family:
        raise UserError(
            f"these are different models, {first.description} and {second.description}: give two "
            "checkpoints of the same model"
        )
    if first.image_shape != second.image_shape:
        sizes = [f"{bundle.image_shape[0]} x {bundle.image_shape[1]}" for bundle in (first, second)]
        raise UserError(
            f"A is for images of {sizes[0]} pixels, B of {sizes[1]}: type "
            f'--set="data.image_size={tuple(second.image_shape[:2])}" if a file does not determine its size'
        )


def _differing_attributes(first: Backbone, second: Backbone) -> Iterator[str]:
    """Yield sentences on attributes that arrays do not determine, such as another number of heads."""
    for key in UNSEEN:
        sides = [getattr(encoder, key, None) for encoder in (first, second)]
        if sides[0] != sides[1]:
            yield f"A has {key} {sides[0]}, B {sides[1]}: set it by --set if a file does not determine it"


def _noise(bundle: ModelBundle) -> np.ndarray | None:
    """The noise behind the mask of a pre-trained model; None for others."""
    if bundle.kind == "classifier":
        return None
    shape = create_method(bundle.config.method).noise_shape((IMAGES, *bundle.image_shape))
    return np.random.default_rng(1).random(shape, dtype=np.float32)


def _with_section(bundle: ModelBundle, section: ConfigDict) -> ConfigDict:
    config = bundle.config.copy_and_resolve_references()
    config["method" if "method" in config else "model"] = section
    return config


def _layers(comparisons: Iterable[Comparison]) -> set[str]:
    return {comparison.layer for comparison in comparisons}


def _log(log: Log, label: str, text: str) -> None:
    log(f"{label:>12}  {text}")


def _table(comparisons: Iterable[Comparison], marks_jax: bool) -> Iterator[str]:
    yield f"{'':>12}  {'layer':<18} {'largest error':>14} {'of values up to':>16}"
    for comparison in comparisons:
        layer = comparison.layer + (" (JAX)" if marks_jax and comparison.backend == "JAX" else "")
        mark = "" if comparison.passes else "  <-- differs"
        yield f"{'':>12}  {layer:<18} {comparison.error:>14.3g} {comparison.largest:>16.4g}{mark}"


def _equal_arrays(first: ModelBundle, second: ModelBundle) -> str:
    ours, theirs = flatten_variables(first.variables), flatten_variables(second.variables)
    both = [path for path in ours if path in theirs]
    equal = sum(np.array_equal(ours[path], theirs[path]) for path in both)
    return f"{equal:,} of {count(len(both), 'array')} in both are equal bit for bit"


def _verdict(comparisons: list[Comparison]) -> str:
    failed = [comparison.layer for comparison in comparisons if not comparison.passes]
    if failed:
        verb = "differs" if len(failed) == 1 else "differ"
        return f"{', '.join(failed)} {verb} by more than {TOLERANCE:g} of the layer's largest value"
    return f"all {len(comparisons)} layers agree within {TOLERANCE:g} of their largest value"
