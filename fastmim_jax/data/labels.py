"""Labelled data to train and to evaluate on, whose classes agree."""

from fastmim_jax.data.sources import evaluation_split, labelled, open_source
from fastmim_jax.errors import UserError


def open_labelled(config):
    """-> (training source, evaluation source) of a config of fine-tuning, with the same classes.

    Raises:
      UserError: no labels, no data to evaluate on, or other classes there.
    """
    data = config.data
    source = labelled(open_source(data.path, data.split))
    return source, open_evaluation(data, source.classes)


def open_evaluation(data, classes):
    """The source to evaluate on, with the same classes.

    Raises:
      UserError: as of `open_labelled`.
    """
    path = data.eval_path or data.path
    split = data.eval_split or evaluation_split(path) or ("train" if data.eval_path else None)
    if split is None:
        raise UserError(
            f"{path} has no val or test split to evaluate on: type --config.data.eval_path=DIR, a folder "
            "with the same classes"
        )
    source = labelled(open_source(path, split))
    check_classes(source, classes)
    return source


def check_classes(source, classes):
    """Raises UserError where a source has other classes than a model."""
    if tuple(source.classes) == tuple(classes):
        return
    others = sorted({*source.classes} ^ {*classes})
    shown = ", ".join(others[:3]) + (", ..." if len(others) > 3 else "")
    raise UserError(
        f"{source!r} has {len(source.classes)} classes, the head has {len(classes)}"
        + (f" (not in both: {shown})" if others else " in another order")
        + ": expected the same class folders as in training"
    )
