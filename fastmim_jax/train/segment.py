"""Training of semantic segmentation: its data and its stage, built from a config, and the whole run."""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from fastmim_jax.auto_schedule import fill_auto
from fastmim_jax.build import NOT_PREPARED, StoredImages, create_reader, create_segmenter, decode_rules
from fastmim_jax.data.loader import Loader
from fastmim_jax.data.masks import MaskedFiles, mask_evaluation_split, open_masks
from fastmim_jax.data.masks.stream import MASK_DTYPE, make_mask_loader
from fastmim_jax.errors import UserError
from fastmim_jax.models.dense.segmenter import Segmenter
from fastmim_jax.plan import make_stage_plan
from fastmim_jax.train import sharding, steps
from fastmim_jax.train.report import Note, describe_segmentation
from fastmim_jax.train.runs import LoadedRun
from fastmim_jax.train.segmenter_stage import SegmenterStage, make_segmenter_stage
from fastmim_jax.train.stage import TrainStage, with_values
from fastmim_jax.train.supervised import Evaluation, Task, supervised_fields, train_supervised
from fastmim_jax.validate import check_data_given, check_segmentation


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class SegmentStage(TrainStage):
    """Training of segmentation, a run of one stage.

    classes: their names.
    """

    model: Segmenter
    classes: tuple[str, ...]

    inputs = ("image", "mask")

    def abstract_batch(self) -> dict[str, jax.ShapeDtypeStruct]:
        """See `TrainStage.abstract_batch`."""
        size, on_devices = self.plan.batch_size, sharding.batch_sharding(self.mesh)
        shapes = {
            "image": (self.reader.image_shape, jnp.uint8),
            "mask": (self.reader.image_size, MASK_DTYPE),
        }
        return {
            name: jax.ShapeDtypeStruct((size, *shape), dtype, sharding=on_devices)
            for name, (shape, dtype) in shapes.items()
        }

    def loader(self, source: Any, *, batch_size: int, seed: int, **options: Any) -> Loader:
        """See `TrainStage.loader`; options: of `make_mask_loader`."""
        data = self.config.data
        return make_mask_loader(
            source,
            size=self.reader.image_size,
            batch_size=batch_size,
            seed=seed,
            scale=tuple(data.scale),
            max_class_share=data.max_class_share,
            photometric=data.photometric_distortion,
            rows=self.rows(batch_size),
            threads=self.reader.threads,
            max_worker_restarts=self.reader.max_worker_restarts,
            **options,
        )

    def segmenter(self) -> SegmenterStage:
        """Return the stage that segments images on the devices of this process, without parameters."""
        devices = sharding.local_devices(self.mesh)
        size = self.eval_batch_size * len(devices) // self.device_count
        return make_segmenter_stage(self.config, self.model, self.classes, size, devices)


def make_segment_stage(
    config: Any,
    records: int,
    classes: Sequence[str],
    devices: list | None = None,
    loaded: LoadedRun | None = None,
    stored: StoredImages = NOT_PREPARED,
) -> SegmentStage:
    """Build the stage of a run of segmentation; arguments and errors: see `make_finetune_stage`."""
    devices, config = devices or jax.devices(), fill_auto(config, records).config
    check_segmentation(config, len(classes), platform=devices[0].platform, devices=len(devices))
    plan = make_stage_plan(config, records=records, devices=len(devices))
    model, reader = create_segmenter(config.model, len(classes)), create_reader(config, stored)
    step = partial(
        steps.segment_step,
        prepare=partial(reader.normalize, flip=None),
        auxiliary_weight=config.loss.auxiliary_weight,
        class_weights=tuple(config.loss.class_weights),
    )
    fields = supervised_fields(config, plan, model, reader, step, devices, loaded)

    def rebuild(values: dict[str, Any]) -> SegmentStage:
        return make_segment_stage(with_values(config, values), records, classes, devices, loaded, stored)

    return SegmentStage(**fields, rebuild=rebuild, classes=tuple(classes))


def open_data(config: Any) -> tuple[MaskedFiles, MaskedFiles]:
    """Open the training and the evaluation data of a config of segmentation.

    Raises:
      UserError: no images with masks, or none to evaluate on.
    """
    check_data_given(config)
    data = config.data
    source = open_split(data, data.path, data.split, classes=config.model.classes)
    return source, open_evaluation(data, source.class_names)


def open_evaluation(
    data: Any, classes: Sequence[str], other: str = "--config.data.eval_path=DIR"
) -> MaskedFiles:
    """Open the evaluation data of `config.data` for a model with these classes; errors: see `open_data`.

    other: what to type for other data.
    """
    path = data.eval_path or data.path
    split = data.eval_split or mask_evaluation_split(path, data.kind)
    if split is None and not data.eval_path:
        raise UserError(
            f"{path} has no val or test split to evaluate on: make images/train and images/val, and the "
            f"same in masks/, or type {other} with other images and masks"
        )
    return open_split(data, path, split or "train", classes=tuple(classes))


def open_split(data: Any, path: str, split: str, classes: Any = None) -> MaskedFiles:
    """Open a split of images with masks, as `config.data` says; `classes` are those of pixels."""
    masks = open_masks(path, split=split, kind=data.kind, legend=data.legend, classes=classes)
    return dataclasses.replace(masks, classes=masks.class_names, rules=decode_rules(data))


def segment(
    config: Any,
    workdir: str | Path,
    open_evaluation: Callable[[SegmentStage, Any, Path, Callable[[str], None]], Evaluation],
    log: Callable[[str], None] = print,
    accept_changed_data: bool = False,
    extend: bool = False,
    measure_baselines: Callable[..., list[Note]] | None = None,
) -> int:
    """Train segmentation in a work directory, or resume there; see `train_supervised`.

    Args:
      config: see `fastmim_jax.segment_config.segment_config`.
      measure_baselines: see `evaluate.segmentation.baselines`.

    Returns:
      The number of updates done.
    """
    return train_supervised(
        config,
        workdir,
        Task(open_data, make_segment_stage, describe_segmentation),
        open_evaluation,
        log=log,
        accept_changed_data=accept_changed_data,
        extend=extend,
        measure_baselines=measure_baselines,
    )
