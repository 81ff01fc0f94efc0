"""Labelled training data, and evaluation data with all or some of their classes."""

from collections.abc import Sequence
from typing import Any, cast

from ml_collections import ConfigDict

from fastmim_jax.data.held_out_share import split_share
from fastmim_jax.data.sources import Source, evaluation_split, labelled, open_source
from fastmim_jax.data.sources.base import plain_name
from fastmim_jax.data.sources.joined import absolute_path
from fastmim_jax.errors import UserError


def open_labelled(config: ConfigDict) -> tuple[Source, Source]:
    """Open the training and the evaluation data of a fine-tuning config.

    Without a split to evaluate on, a share of the training data is held out, see `split_share`.

    Raises:
      UserError: no labels, no data to evaluate on, or classes that training lacks.
    """
    data = config.data
    source = labelled(open_source(data.path, data.split))
    if not holds_out_share(data):
        return source, open_evaluation(data, source.classes)
    return split_share(source, data.eval_share)


def open_evaluation(data: ConfigDict, classes: Sequence[str]) -> Source:
    """Open the evaluation data of `config.data` for a model with these classes.

    Raises:
      UserError: no labels, no data to evaluate on, or classes that training lacks.
    """
    if holds_out_share(data):
        return with_classes(
            split_share(labelled(open_source(data.path, data.split)), data.eval_share)[1], classes
        )
    path = data.eval_path or data.path
    split = data.eval_split or evaluation_split(path) or ("train" if data.eval_path else None)
    if split is None:
        raise UserError(
            f"{path} has no val or test split to evaluate on: type --config.data.eval_path=DIR with a "
            "folder of the same classes, or --config.data.eval_share=0.1 to hold out a share of it"
        )
    return with_classes(open_source(path, split), classes)


def holds_out_share(data: ConfigDict) -> bool:
    """Return whether the images to evaluate on are a share of the training data of `config.data`."""
    given = data.eval_path or data.eval_split or not data.eval_share
    return not given and evaluation_split(data.path) is None


def trained_on(path: str, data: ConfigDict) -> bool:
    """Return whether a data set without a val or test split is the one that `config.data` trains on."""
    return evaluation_split(path) is None and absolute_path(path) == absolute_path(data.path)


class RelabelledSource:
    """A source whose labels are numbers of other, more classes.

    Attributes:
      classes: of a model; the source has some of them.
      manifest: of a prepared source, else None.
    """

    def __init__(self, source: Source, classes: Sequence[str]):
        self.classes, self.notices, self._source = tuple(classes), source.notices, source
        self.manifest = getattr(source, "manifest", None)
        number = {name: index for index, name in enumerate(self.classes)}
        self._numbers = tuple(number[name] for name in source.classes)

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Any:
        return self._source[index]

    def name(self, index: int) -> str:
        return self._source.name(index)

    def label(self, index: int) -> int:
        label = self._source.label(index)
        return self._numbers[label] if label >= 0 else -1

    def label_problem(self) -> str | None:
        return label_problem(self._source)

    def __repr__(self) -> str:
        return f"{self._source!r} of {len(self.classes)}"


def with_classes(source: Source, classes: Sequence[str]) -> Source:
    """Return evaluation data with the class numbers of a model; they may lack some of its classes.

    A class without images, or in another order, is no error: labels are matched by name.

    Raises:
      UserError: no labels, or a class that the model lacks.
    """
    problem = label_problem(source)
    if problem is not None:
        raise UserError(problem)
    check_classes(source, classes)
    same = tuple(source.classes) == tuple(classes)
    return source if same else cast(Source, RelabelledSource(source, classes))


def label_problem(source: Source) -> str | None:
    """Return why evaluation data have no labels, or None; a single class will do."""
    problem = source.label_problem()
    if problem is None or len(source.classes) != 1:
        return problem
    without = next((index for index in range(len(source)) if source.label(index) < 0), None)
    return None if without is None else f"{source.name(without)} has no label."


def check_classes(source: Source, classes: Sequence[str]) -> None:
    """Raise UserError if a source has a class that a model lacks."""
    extra = [name for name in source.classes if name not in classes]
    if not extra:
        return
    known = {plain_name(name): name for name in classes}
    alike = [known.get(plain_name(name)) for name in extra]
    named = [f"{name!r} (not {x!r})" if x else name for name, x in zip(extra, alike, strict=True)]
    shown = ", ".join(named[:3]) + (", ..." if len(named) > 3 else "")
    raise UserError(
        f"{source!r} has classes that are not among the {len(classes)} of the model: {shown}; expected the "
        "class folders of training, or some of them"
    )
