"""Models on devices, without training: the part that every evaluation and every training stage shares."""

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from fastmim_jax.build import create_classifier, create_method, create_reader, stored_images
from fastmim_jax.data.clipped import ClippedValues
from fastmim_jax.data.eval_batches import EvalBatches
from fastmim_jax.data.image_reader import ImageReader
from fastmim_jax.data.replacements import describe_broken_classes
from fastmim_jax.data.undecodable import describe_doubtful
from fastmim_jax.errors import UserError
from fastmim_jax.mim.method import Method
from fastmim_jax.models.heads import Classifier
from fastmim_jax.saved_config import kind_of
from fastmim_jax.stages import at_stage
from fastmim_jax.train import sharding, steps
from fastmim_jax.train.agreement import begin_unit
from fastmim_jax.train.compilation import OnMesh
from fastmim_jax.train.runs import LoadedRun, count_outputs, load_run, read_classes
from fastmim_jax.validate import channels_fit, check_kernel
from fastmim_jax.validate.names import count

# Arrays of an evaluation batch that go to the devices.
ROWS = ("image", "label", "index", "valid", "undecodable")
FLAGS = ("flip", "valid", "undecodable")  # arrays of bool; the others but the images are integers


_LOG = logging.getLogger("fastmim_jax.data")  # the commands print it


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class InferenceStage:
    """A model on a mesh of devices, and how images get there.

    Attributes:
      mesh: the devices.
      model: a backbone, a method or a classifier, a Flax module.
      variables: {"params": nested, ...}, arrays on the mesh. A training stage, whose values change, has
        ShapeDtypeStructs with shardings.
      reader: crops and normalisation of the images.
      eval_batch_size: images at once in an evaluation, over all devices, a multiple of their number.
    """

    mesh: jax.sharding.Mesh
    model: nn.Module
    variables: dict[str, Any]
    reader: ImageReader
    eval_batch_size: int

    inputs: ClassVar[tuple[str, ...]] = (
        "image",
        "flip",
    )  # arrays of a loader's batch that go to the devices

    @property
    def device_count(self) -> int:
        """Number of devices, over all processes."""
        return self.mesh.devices.size

    def rows(self, batch_size: int) -> np.ndarray:
        """Return the rows of a batch that this process feeds, ascending."""
        return sharding.owned_rows(sharding.batch_sharding(self.mesh), batch_size)

    def to_devices(
        self, batch: Mapping[str, np.ndarray], batch_size: int, names: tuple[str, ...] | None = None
    ) -> dict[str, jax.Array]:
        """Return this process's rows of a batch as global arrays; names: which, None for `inputs`."""
        selected = {name: _narrow(batch[name]) for name in names or self.inputs}
        return sharding.to_devices(selected, sharding.batch_sharding(self.mesh), batch_size)

    def abstract_arrays(
        self, names: tuple[str, ...], size: int, image_shape: tuple[int, ...]
    ) -> dict[str, jax.ShapeDtypeStruct]:
        """Return arrays of a batch of `size` images on the devices as ShapeDtypeStructs with shardings."""
        on_devices = sharding.batch_sharding(self.mesh)
        kinds: dict[str, tuple[tuple[int, ...], Any]] = {
            **{name: ((), jnp.bool_ if name in FLAGS else jnp.int32) for name in names},
            "image": (image_shape, self.reader.pixel_dtype),
            "box": ((4,), jnp.int32),
        }
        return {
            name: jax.ShapeDtypeStruct((size, *kinds[name][0]), kinds[name][1], sharding=on_devices)
            for name in names
        }

    def batch_size_for(self, records: int) -> int:
        """Return the batch size for so few records: up to `eval_batch_size`, a multiple of the devices.

        It is a power of two of images a device, so that similar numbers of images share a program.
        """
        devices = self.device_count
        each = 1 << max(0, -(-records // devices) - 1).bit_length()
        return max(1, min(self.eval_batch_size // devices, each)) * devices

    def eval_batches(self, source: Any, batch_size: int, records: np.ndarray | None = None) -> EvalBatches:
        """Return one pass over a source with centre crops, this process's rows only.

        Raises:
          UserError: prepared images whose channels are not those of the model.
        """
        stored = stored_images(source)
        if not channels_fit(self.reader.channels, stored):
            raise UserError(
                f"{source!r} has images of {count(stored.channels or 0, 'channel')}, expected "
                f"{self.reader.channels} as in training: give other images, or prepare these again with "
                f"--channels={self.reader.channels}"
            )
        return self.reader.center_crops(
            source, batch_size=batch_size, rows=self.rows(batch_size), records=records
        )

    def map_images(
        self,
        function: Callable[[dict[str, jax.Array]], dict[str, jax.Array]],
        source: Any,
        records: np.ndarray | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> tuple[dict[str, np.ndarray], int]:
        """Apply a function to every image of a source, in the order of the source.

        Args:
          function: batch of ROWS -> {name: (B, ...)}, with "valid" and "undecodable" of the batch.
          source: see `fastmim_jax.data.sources`.
          records: (m,) record numbers, None for all.
          progress: called with the number of images done after each batch, or None.

        Returns:
          {name: (n, ...)} of the images that could be decoded, and the number of those that could not.

        Raises:
          GivenUp: see `agreement.begin_unit`.
        """
        size = self.batch_size_for(len(source) if records is None else len(records))
        outputs, done, doubtful, clipped = [], 0, 0, ClippedValues(self.reader.rules)
        with self.eval_batches(source, size, records) as batches:
            for batch in batches:
                begin_unit()
                rows = jax.device_get(function(self.to_devices(batch, size, ROWS)))
                outputs.append(rows)
                clipped.update(batch)
                doubtful += int(batch["doubtful"].sum())
                done += int(rows["valid"].sum() + rows["undecodable"].sum())
                if progress:
                    progress(done)
        for sentence in filter(None, (clipped.summary(), doubtful and describe_doubtful(doubtful))):
            _LOG.warning(sentence)
        columns = {name: np.concatenate([rows[name] for rows in outputs]) for name in outputs[0]}
        valid, undecodable = columns.pop("valid"), columns.pop("undecodable")
        index = columns["index"]
        for sentence in describe_broken_classes(source, index[valid], index[undecodable]):
            _LOG.warning(f"{source!r}: {sentence}")
        return {name: column[valid] for name, column in columns.items()}, int(undecodable.sum())


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class MethodStage(InferenceStage):
    """A pre-training method: reconstructions and losses.

    Attributes:
      forward, loss: (variables, batch, index) -> see `steps.forward` and `steps.eval_step`.
      constant: (variables, batch, index, guess) -> see `steps.constant_step`.
    """

    model: Method
    forward: Callable
    loss: Callable
    constant: Callable


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ClassifierStage(InferenceStage):
    """A classifier.

    Attributes:
      classes: their names.
      classify: (variables, batch of ROWS) -> see `steps.classify_step`.
    """

    model: Classifier
    classes: tuple[str, ...]
    classify: OnMesh


def open_method(
    path: Any,
    step: int | None = None,
    *,
    batch_size: int,
    devices: list | None = None,
    settings: Sequence[str] = (),
) -> tuple[LoadedRun, MethodStage]:
    """Open a pre-trained checkpoint with its method.

    A method that mixes images mixes each batch as one group, so that any batch size works.

    Args:
      path, step, settings: see `runs.load_run`.
      batch_size: images at once, over all devices; rounded up to a multiple of their number.
      devices: None for all.

    Raises:
      UserError: no checkpoint there, or a fine-tuned one.
    """
    loaded = load_run(path, step, devices, settings)
    return loaded, method_stage(loaded, batch_size=batch_size, devices=devices)


def method_stage(loaded: LoadedRun, *, batch_size: int, devices: list | None = None) -> MethodStage:
    """Return the method of a loaded checkpoint; arguments and errors: see `open_method`."""
    devices = devices or jax.devices()
    if "method" not in loaded.config:
        raise UserError(f"{loaded.workdir} was fine-tuned: expected the --workdir of a `fastmim pretrain`")
    config = at_stage(loaded.config, loaded.stage)
    check_kernel("method", config.method, devices[0].platform, loaded.workdir)
    method, reader = create_method(config.method), create_reader(config)
    if method.groups > 1:
        method = method.clone(groups=1)
    mesh = sharding.make_mesh(devices=devices)
    return MethodStage(
        mesh=mesh,
        model=method,
        variables=loaded.variables,
        reader=reader,
        eval_batch_size=round_up(batch_size, len(devices)),
        **method_programs(method, reader, run_key(config.seed), loaded.variables, mesh),
    )


def open_classifier(
    path: Any,
    step: int | None = None,
    *,
    batch_size: int | None = None,
    devices: list | None = None,
    settings: Sequence[str] = (),
) -> tuple[LoadedRun, ClassifierStage]:
    """Open a fine-tuned checkpoint with its classifier.

    Args:
      path, step, settings: see `runs.load_run`.
      batch_size: images at once, over all devices; None for that of training. Rounded up to a multiple of
        the devices.
      devices: None for all.

    Raises:
      UserError: no checkpoint there, or one that was not fine-tuned.
    """
    loaded = load_run(path, step, devices, settings)
    class_file = loaded.workdir / "classes.json"
    if kind_of(loaded.config) != "finetune" or not class_file.exists():
        raise UserError(
            f"{loaded.workdir} was not fine-tuned: expected the --workdir of a `fastmim finetune` "
            "(`fastmim probe` and `fastmim features` take pre-trained ones)"
        )
    classes = read_classes(loaded.workdir, count_outputs(loaded.variables))
    return loaded, classifier_stage(loaded, classes, batch_size=batch_size, devices=devices)


def classifier_stage(
    loaded: LoadedRun,
    classes: tuple[str, ...],
    *,
    batch_size: int | None = None,
    devices: list | None = None,
) -> ClassifierStage:
    """Return the classifier of a loaded checkpoint; arguments: see `open_classifier`."""
    devices, config = devices or jax.devices(), loaded.config
    check_kernel("model", config.model, devices[0].platform, loaded.workdir)
    model, reader = create_classifier(config.model, len(classes)), create_reader(config)
    mesh = sharding.make_mesh(devices=devices)
    return ClassifierStage(
        mesh=mesh,
        model=model,
        variables=loaded.variables,
        reader=reader,
        eval_batch_size=round_up(batch_size or config.schedule.batch_size, len(devices)),
        classes=classes,
        classify=classify_program(model, reader, loaded.variables, mesh),
    )


def method_programs(
    method: nn.Module, reader: ImageReader, key: jax.Array, variables: dict, mesh: jax.sharding.Mesh
) -> dict[str, Any]:
    """Return the compiled functions of a MethodStage by name; key: see `run_key`."""
    shared = dict(method=method, prepare=reader.normalize, key=key)
    batch, replicated = sharding.batch_sharding(mesh), sharding.replicated(mesh)

    def program(name: str, function: Callable, *more: jax.sharding.Sharding) -> Callable:
        return compile_eval(name, partial(function, **shared), variables, mesh, batch, replicated, *more)

    return dict(
        forward=program("the reconstruction", steps.forward),
        loss=program("the held-out loss", steps.eval_step),
        constant=program("the trivial losses", steps.constant_step, replicated),
    )


def classify_program(
    model: nn.Module, reader: ImageReader, variables: dict, mesh: jax.sharding.Mesh
) -> OnMesh:
    """Return the compiled `classify` of a ClassifierStage."""
    function = partial(steps.classify_step, model=model, prepare=reader.normalize)
    return compile_eval("the evaluation", function, variables, mesh, sharding.batch_sharding(mesh))


def compile_eval(
    name: str,
    function: Callable,
    variables: Any,
    mesh: jax.sharding.Mesh,
    *shardings: jax.sharding.Sharding,
) -> OnMesh:
    """Jit (variables, ...) -> outputs that all devices hold in full.

    Args:
      name: of the function in messages.
      variables: a tree of arrays or ShapeDtypeStructs, for its shardings.
      shardings: of the other arguments.
    """
    of_variables = jax.tree.map(lambda leaf: leaf.sharding, variables)
    jitted = jax.jit(
        function, in_shardings=(of_variables, *shardings), out_shardings=sharding.replicated(mesh)
    )
    return OnMesh(jitted, mesh, name)


def run_key(seed: int) -> jax.Array:
    """Return the random key of everything but the initial parameters, which have another one."""
    return jax.random.fold_in(jax.random.key(seed), 1)


def round_up(batch_size: int, devices: int) -> int:
    """Return the smallest multiple of the number of devices that is no smaller than the batch."""
    return -(-batch_size // devices) * devices


def _narrow(array: np.ndarray) -> np.ndarray:
    return array.astype(np.int32) if array.dtype == np.int64 else array
