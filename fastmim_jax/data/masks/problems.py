"""Masks that cannot be used: one as an error, all of a data set counted in one sentence."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from fastmim_jax.errors import UserError

_SHOWN = 3  # files of a kind


class _Kind(NamedTuple):
    """A kind of problem: "2 masks" + what was seen, and what to do."""

    seen: str
    advice: str


KINDS: Mapping[str, _Kind] = {
    "value": _Kind(
        "with values beyond the classes",
        "add a line `NAME VALUE` for each to the legend, such as legend.txt beside images/, raise "
        "config.model.classes where it is set, or write the pixels without a label as 255",
    ),
    "foreign value": _Kind(
        "with values that this data set does not have", "take the masks of its download as they are"
    ),
    "colour": _Kind("with colours that the legend lacks", "add a line `NAME R G B` for each to the legend"),
    "no legend": _Kind(
        "with colours, but no legend for them",
        "write a line `NAME R G B` for each class to legend.txt beside images/",
    ),
    "foreign colour": _Kind(
        "with colours, where this data set has values or a palette",
        "take the masks of its download as they are, or put them into folders images/ and masks/ with "
        "legend.txt, a line `NAME R G B` for each class",
    ),
    "size": _Kind(
        "of another size than their image",
        "save image and mask with the same width and height; resize masks by the nearest pixel only",
    ),
    "rotated": _Kind(
        "not rotated as the EXIF orientation of their image asks",
        "write the images upright (`mogrify -auto-orient`) and rotate these masks alike, or drop the tag "
        "(`exiftool -Orientation= FILE`)",
    ),
    "lossy": _Kind(
        "in a format that does not keep labels exactly", "write them again from their origin as PNG"
    ),
    "unreadable": _Kind("that cannot be read", "write them again, or remove them with their images"),
    "segment": _Kind("with segments that the JSON file lacks", "take masks and JSON file of one download"),
    "image": _Kind("whose image cannot be read", "repair the images, or remove them with their masks"),
}


class MaskError(UserError):
    """A mask that cannot be used.

    Attributes:
      kind: of KINDS.
      name, detail: of the file, and what was seen in it.
      reason: kind and detail in words, such as "a mask with values beyond the classes (2)".
    """

    def __init__(self, kind: str, name: str, detail: str):
        found = KINDS[kind]
        self.kind, self.name, self.detail = kind, name, detail
        self.reason = f"a mask {found.seen} ({detail})"
        super().__init__(f"{name}: {self.reason}: {found.advice}")

    def __reduce__(self) -> tuple:
        return type(self), (self.kind, self.name, self.detail)


def describe_problems(path: str, total: int, problems: Sequence[MaskError]) -> str:
    """Return the sentence on all masks of a data set that cannot be used, by kind, with files."""
    sentences = []
    for kind, (seen, advice) in KINDS.items():
        found = [problem for problem in problems if problem.kind == kind]
        if found:
            shown = ", ".join(f"{problem.name}: {problem.detail}" for problem in found[:_SHOWN])
            more = ", ..." * (len(found) > _SHOWN)
            sentences.append(f"{len(found):,} {seen} ({shown}{more}): {advice}")
    masks = f"{len(problems):,} of {total:,} mask{'s' * (total != 1)} of {path} cannot be used"
    return f"{masks}; {'; '.join(sentences)}"
