"""Pre-train, fine-tune, segment and probe from Python."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from fastmim_jax.api.loaded_model import Model
from fastmim_jax.api.runs import RUNS
from fastmim_jax.api.settings import apply_settings
from fastmim_jax.api.spelling import python_errors
from fastmim_jax.auto_schedule import set_auto
from fastmim_jax.data.sources.joined import absolute_path
from fastmim_jax.data.workers import start_resource_tracker
from fastmim_jax.errors import UserError, did_you_mean
from fastmim_jax.evaluate.dense_probes.probe import (
    OPTIONS,
    are_dense,
    check_given,
    check_no_options,
    dense_probe,
)
from fastmim_jax.evaluate.dense_probes.table import DenseTable
from fastmim_jax.evaluate.probe import Line
from fastmim_jax.evaluate.probe import probe as probe_run
from fastmim_jax.models.zoo import create_model
from fastmim_jax.paths import absolute_place, is_store, place
from fastmim_jax.recipes import list_config_files, load_config
from fastmim_jax.saved_config import kind_of
from fastmim_jax.start_jax import start_jax
from fastmim_jax.train.metrics import ProgressCounter

OWN_DATA = "configs/own.py:tiny"
OWN_LABELS = "configs/finetune.py:own"
OWN_MASKS = "configs/segment.py:own"
MOST_GROUPS = 8  # of MixMIM, in the small batches of small data
# Config files of methods.
METHODS = ("crossmae", "fastmim", "fastmim_p", "localmim", "mae", "mixmim", "pr_mim", "simmim")


@python_errors
def pretrain(
    data: str | os.PathLike,
    out: str | os.PathLike,
    *,
    model: str = "",
    method: str = "",
    config: str | ConfigDict = "",
    init: "str | os.PathLike | Model" = "",
    accept_changed_data: bool = False,
    extend: bool = False,
    log: Callable[[str], None] = print,
    **settings: Any,
) -> Path | str:
    """Pre-train a backbone on images without labels, or resume a run.

    Args:
      data: a folder of images, a data set (see `open_dataset`), or "sample".
      out: work directory of the run, made if missing, or an address such as gs://bucket/run; the same call
        resumes a run there to the bit.
      model: name of the backbone, see `list_models`; "" for that of the config.
      method: "mae", "crossmae", "localmim", "simmim", "mixmim", "pr_mim", "fastmim" or "fastmim_p": its
        published recipe for the model, with batch, epochs, warm-up and learning rate from the number of
        images; "" for the config.
      config: such as "configs/mae.py:vit_b16", see `list_configs`; "" for "configs/own.py:tiny".
      init: a run, checkpoint or `Model` to start from.
      accept_changed_data: resume although the data changed.
      extend: resume for longer than the run was begun for, where that leaves its past as it was.
      log: prints a line.
      **settings: config keys, such as batch_size=64, epochs=100, mask_ratio=0.6, image_size=96 or
        method__decoder__depth=2; `fastmim config` lists all.

    Returns:
      The work directory, for `load`, `probe` and `finetune(init=...)`: a Path, or the address.

    Raises:
      UserError: data, config or work directory cannot be used; the sentence says what to type.
    """
    chosen = _pretraining_config(config, model, method)
    chosen = _complete(chosen, data, init, settings, "pretrain")
    options = dict(accept_changed_data=accept_changed_data, extend=extend, log=log)
    return _train("pretrain", chosen, out, **options)


@python_errors
def finetune(
    data: str | os.PathLike,
    out: str | os.PathLike,
    *,
    init: "str | os.PathLike | Model" = "",
    model: str = "",
    config: str | ConfigDict = OWN_LABELS,
    accept_changed_data: bool = False,
    extend: bool = False,
    log: Callable[[str], None] = print,
    **settings: Any,
) -> Path | str:
    """Fine-tune a classifier on labelled images, or resume a run.

    Args:
      data: a folder with a folder per class, of which `eval_share` (10 %) is held out to evaluate on, or
        with train/ and val/ (or test/), each with a folder per class; or a labelled data set. `eval_path`
        names other images to evaluate on.
      out: work directory of the run, made if missing, or an address such as gs://bucket/run; the same call
        resumes a run there to the bit.
      init: a run, checkpoint or `Model` to start from; "" trains from scratch and needs `model`.
      model: name of the backbone; "" for that of `init`.
      config: by default with batch, epochs, warm-up and learning rate from the number of images.
      accept_changed_data, extend, log, **settings: see `pretrain`.

    Returns:
      The work directory, a Path or the address; `load` opens its best checkpoint.

    Raises:
      UserError: see `pretrain`.
    """
    chosen = _supervised_config(config, "finetune", model, data, init, settings)
    options = dict(accept_changed_data=accept_changed_data, extend=extend, log=log)
    return _train("finetune", chosen, out, **options)


@python_errors
def segment(
    data: str | os.PathLike,
    out: str | os.PathLike,
    *,
    init: "str | os.PathLike | Model" = "",
    model: str = "",
    config: str | ConfigDict = OWN_MASKS,
    accept_changed_data: bool = False,
    extend: bool = False,
    log: Callable[[str], None] = print,
    **settings: Any,
) -> Path | str:
    """Train a segmentation on images with masks, or resume a run.

    Args:
      data: a folder with images/ and masks/, each with train/ and val/ inside, or the folder of ADE20K,
        Pascal VOC, Cityscapes or COCO; `eval_path` names other images to evaluate on.
      out, init, model: see `finetune`.
      config: by default a semantic FPN and 2,000 updates of 16 crops of the size of pre-training.
      accept_changed_data, extend, log, **settings: see `pretrain`.

    Returns:
      The work directory, a Path or the address: `fastmim predict` writes the maps of its best checkpoint,
      and `load` opens the backbone.

    Raises:
      UserError: see `pretrain`.
    """
    chosen = _supervised_config(config, "segment", model, data, init, settings)
    options = dict(accept_changed_data=accept_changed_data, extend=extend, log=log)
    return _train("segment", chosen, out, **options)


@python_errors
def probe(
    run: "str | os.PathLike | Model",
    data: str | os.PathLike | None = None,
    *,
    kinds: Sequence[str] = ("ridge",),
    test: str | os.PathLike | None = None,
    folds: int = 0,
    count: int = 20_000,
    step: int | None = None,
    log: Callable[[str], None] = print,
    **options: Any,
) -> list[Line] | DenseTable:
    """Probe the frozen features of a checkpoint, layer by layer, for classes of images or of pixels.

    Args:
      run: a work directory, a checkpoint or a `Model` of one.
      data: a labelled folder or data set; None for the data of the run. Of pixels: images with masks or
        depths, see `segment` and docs/dense.md.
      kinds: of images: "ridge", "knn", "linear", "attentive"; of pixels: "segmentation",
        "knn_segmentation", "depth".
      test, folds, count, step, log: see `fastmim_jax.evaluate.probe.probe`; no folds of pixels.
      **options: of pixels alone: layers, legend, depth_unit, eval_mode="slide" and eval_resize, see
        `fastmim_jax.evaluate.dense_probes.probe.dense_probe`.

    Returns:
      Of images: [Line] with kind, layer, accuracies (of each fold), held_out and setting. Of pixels: a
      DenseTable with lines of kind, layer, scores, held_out, setting and iou, and all of them as arrays.

    Raises:
      UserError: no checkpoint, no labels, or an unknown kind or option.
    """
    dense = are_dense(kinds)
    _check_probe_options(dense, data, folds, options)
    start_jax()
    data, test = (None if path is None else absolute_path(os.fspath(path)) for path in (data, test))
    with ProgressCounter("images") as progress:
        shared = dict(test=test, count=count, step=step, log=log, progress=progress.show)
        if dense:
            return dense_probe(_path_of(run), str(data), kinds=kinds, **shared, **options)
        return probe_run(_path_of(run), data, kinds=kinds, folds=folds, **shared)


def _check_probe_options(dense: bool, data: Any, folds: int, options: dict[str, Any]) -> None:
    unknown = [name for name in options if name not in OPTIONS]
    if unknown:
        hint = did_you_mean(unknown[0], OPTIONS)
        raise UserError(f"no option '{unknown[0]}'; choose from: {', '.join(OPTIONS)}{hint}")
    if dense:
        check_given(data, folds, ("give data", "leave out folds"))
    else:
        check_no_options({**OPTIONS, **options})


def _train(kind: str, config: ConfigDict, out: str | os.PathLike, **options: Any) -> Path | str:
    """Train by a config in a work directory -> it; options: see `runs.run_pretraining`."""
    start_resource_tracker()
    start_jax()
    workdir = place(out)
    RUNS[kind](config, workdir, **options)
    return workdir if is_store(workdir) else Path(workdir)


def _pretraining_config(config: str | ConfigDict, model: str, method: str) -> ConfigDict:
    if method and config:
        raise UserError(f"pretrain() got both config and method='{method}': give one of them")
    if method or (model and not config):
        return _recipe(method or "mae", model)
    chosen = _load(config or OWN_DATA, "pretrain")
    if model:
        chosen.method.backbone.name = model
    return chosen


def _recipe(method: str, model: str) -> ConfigDict:
    """Return the published recipe of a method for a model, with the schedule of own data."""
    if method not in METHODS:
        hint = did_you_mean(method, METHODS)
        raise UserError(f"no method '{method}'{hint}; choose from: {', '.join(METHODS)}")
    name = f"configs/{method}.py"
    (file,) = (file for file in list_config_files() if file.name == name)
    configs = [load_config(f"{name}:{variant}") for variant in file.variants]
    names = [config.method.backbone.name for config in configs]
    family = model.partition("_")[0]
    same = [index for index, other in enumerate(names) if other == model or not model]
    same += [index for index, other in enumerate(names) if other.partition("_")[0] == family]
    encoder = create_model(model) if model else None  # raises for an unknown name
    if not same:
        raise UserError(
            f"{method} has no recipe for model='{model}'; choose a model like one of: "
            + ", ".join(dict.fromkeys(names))
        )
    config = configs[same[0]]
    if encoder is not None and config.method.backbone.name != model:
        if config.method.block_size == create_model(config.method.backbone.name).stride:
            config.method.block_size = encoder.stride
        config.method.backbone.name = model
    config.method.groups = min(config.method.groups, MOST_GROUPS)
    set_auto(config)
    return config


def _supervised_config(
    config: str | ConfigDict, kind: str, model: str, data: Any, init: Any, settings: dict
) -> ConfigDict:
    """Return the config of fine-tuning or of segmentation; kind: of `kind_of`."""
    chosen = _load(config, kind)
    if model:
        chosen.model.backbone.name = model
    return _complete(chosen, data, init, settings, kind)


def _load(config: str | ConfigDict, kind: str) -> ConfigDict:
    chosen = config.copy_and_resolve_references() if isinstance(config, ConfigDict) else load_config(config)
    if kind_of(chosen) != kind:
        raise UserError(
            f"this config is for another function: call fastmim_jax.{kind_of(chosen)}() with it"
        )
    return chosen


def _complete(config: ConfigDict, data: Any, init: Any, settings: dict, caller: str) -> ConfigDict:
    """Return a config with its data, start and settings."""
    if not isinstance(data, str | os.PathLike):
        raise UserError(
            f"data is a {type(data).__name__}, expected the path of a folder or data set: write the "
            "images to files"
        )
    config.data.path = absolute_path(os.fspath(data))
    if init:
        config.init = absolute_place(_path_of(init))
    return apply_settings(config, settings, caller)


def _path_of(run: "str | os.PathLike | Model") -> str:
    return str(run.path) if isinstance(run, Model) else os.fspath(run)
