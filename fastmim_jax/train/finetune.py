"""Fine-tuning of a classifier: its stage, built from a config, and the whole run."""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import jax

from fastmim_jax.auto_schedule import fill_auto
from fastmim_jax.build import NOT_PREPARED, StoredImages, create_classifier, create_reader
from fastmim_jax.data.labels import open_labelled
from fastmim_jax.plan import make_stage_plan
from fastmim_jax.train import steps
from fastmim_jax.train.augmentation import device_augmentation, host_augmentation
from fastmim_jax.train.inference import ClassifierStage, classify_program
from fastmim_jax.train.report import Note, describe_finetuning
from fastmim_jax.train.runs import LoadedRun
from fastmim_jax.train.stage import TrainStage, with_values
from fastmim_jax.train.supervised import Evaluation, Task, supervised_fields, train_supervised
from fastmim_jax.validate import check_finetuning, check_stored_images


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class FinetuneStage(ClassifierStage, TrainStage):
    """Fine-tuning of a classifier, a run of one stage."""

    inputs: ClassVar[tuple[str, ...]] = ("image", "flip", "label")

    @property
    def views(self) -> dict[str, Any]:
        """See `TrainStage.views`: RandAugment and repeated augmentation."""
        return host_augmentation(self.config.augment)


def make_finetune_stage(
    config: Any,
    records: int,
    classes: Sequence[str],
    devices: list | None = None,
    loaded: LoadedRun | None = None,
    stored: StoredImages = NOT_PREPARED,
) -> FinetuneStage:
    """Build the stage of a fine-tuning run; nothing is compiled yet.

    Args:
      config: complete, see `inherit_backbone`.
      records: images in the training data.
      classes: their names.
      devices: None for all.
      loaded: a run to start from, or None.
      stored: how the training data stores its images, see `stored_images`.

    Raises:
      UserError: the config cannot work.
    """
    devices, config = devices or jax.devices(), fill_auto(config, records).config
    check_finetuning(config, platform=devices[0].platform, devices=len(devices))
    check_stored_images(config, stored)
    plan = make_stage_plan(config, records=records, devices=len(devices))
    model, reader = create_classifier(config.model, len(classes)), create_reader(config, stored)
    augment = config.augment
    prepare = device_augmentation(augment, reader.normalize_training, len(classes), augment.mix_groups)
    step = partial(steps.finetune_step, prepare=prepare)
    fields = supervised_fields(config, plan, model, reader, step, devices, loaded)

    def rebuild(values: dict[str, Any]) -> FinetuneStage:
        changed = with_values(config, values)
        return make_finetune_stage(changed, records, classes, devices, loaded, stored)

    classify = classify_program(model, reader, fields["variables"], fields["mesh"])
    return FinetuneStage(**fields, rebuild=rebuild, classes=tuple(classes), classify=classify)


def finetune(
    config: Any,
    workdir: str | Path,
    open_evaluation: Callable[[FinetuneStage, Any, Path, Callable[[str], None]], Evaluation],
    log: Callable[[str], None] = print,
    accept_changed_data: bool = False,
    extend: bool = False,
    measure_baselines: Callable[..., list[Note]] | None = None,
) -> int:
    """Fine-tune in a work directory, or resume there; arguments and errors: see `train_supervised`.

    Args:
      config: see `fastmim_jax.config.finetune_config`.
      measure_baselines: see `evaluate.finetune_baselines`.

    Returns:
      The number of updates done.
    """
    return train_supervised(
        config,
        workdir,
        Task(open_labelled, make_finetune_stage, describe_finetuning),
        open_evaluation,
        log=log,
        accept_changed_data=accept_changed_data,
        extend=extend,
        measure_baselines=measure_baselines,
    )
