"""Labelled training and evaluation data with the same classes."""

from collections.abc import Sequence

from ml_collections import ConfigDict

from fastmim_jax.data.sources import Source, evaluation_split, labelled, open_source
from fastmim_jax.errors import UserError


def open_labelled(config: ConfigDict) -> tuple[Source, Source]:
    """Open the training and the evaluation data of a fine-tuning config.

    Raises:
      UserError: no labels, no data to evaluate on, or classes that differ.
    """
    data = config.data
    source = labelled(open_source(data.path, data.split))
    return source, open_evaluation(data, source.classes)


def open_evaluation(data: ConfigDict, classes: Sequence[str]) -> Source:
    """Open the evaluation data of `config.data` for a model with these classes.

    Raises:
      UserError: no labels, no data to evaluate on, or classes that differ.
    """
    path = data.eval_path or data.path
    split = data.eval_split or evaluation_split(path) or ("train" if data.eval_path else None)
    if split is None:
        raise UserError(
            f"{path} has no val or test split to evaluate on: type --config.data.eval_path=DIR with a "
            "folder of the same classes"
        )
    source = labelled(open_source(path, split))
    check_classes(source, classes)
    return source


def check_classes(source: Source, classes: Sequence[str]) -> None:
    """Raise UserError if the classes of a source are not those of a model."""
    if tuple(source.classes) == tuple(classes):
        return
    differing = sorted({*source.classes} ^ {*classes})
    shown = ", ".join(differing[:3]) + (", ..." if len(differing) > 3 else "")
    raise UserError(
        f"{source!r} has {len(source.classes)} classes, the head has {len(classes)}"
        + (f" (not in both: {shown})" if differing else " in another order")
        + ": expected the same class folders as in training"
    )
