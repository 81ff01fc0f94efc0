"""Detection of the format of a state dict by its names."""

from collections.abc import Iterable

from fastmim_jax.errors import UserError
from fastmim_jax.export.formats import FORMATS
from fastmim_jax.export.formats.names import count_missing_names, unknown_names
from fastmim_jax.export.formats.rules import Format

MAX_UNKNOWN_SHARE = 0.5  # of the names; a format with more unknown names is no candidate


def candidate_formats(names: Iterable[str]) -> list[Format]:
    """Return the formats with the fewest unknown names, the likeliest first.

    Among equals, a format whose distinctive names are present comes first, and then one that expects fewer
    other names.

    Raises:
      UserError: every format lacks more than half of the names.
    """
    names = list(names)
    scores = {fmt: _score(names, fmt) for fmt in FORMATS.values()}
    ranked = sorted(scores, key=lambda fmt: scores[fmt])
    fewest = scores[ranked[0]][0]
    if not names or fewest > MAX_UNKNOWN_SHARE * len(names):
        raise UserError(
            f"{len(names)} names such as {', '.join(names[:3])} are of no known format: expected one of "
            f"{', '.join(FORMATS)}"
        )
    return [fmt for fmt in ranked if scores[fmt][0] == fewest]


def _score(names: list[str], fmt: Format) -> tuple[int, int, int]:
    """Return a key to sort by; smaller is likelier."""
    distinctive = {name.split(".")[-1] for name in names} & set(fmt.distinctive)
    unused = count_missing_names(names, fmt.name)
    return len(unknown_names(names, fmt.name)), -len(distinctive), unused


def find_format(name: str) -> Format:
    """Return the Format of a name.

    Raises:
      UserError: no format has that name.
    """
    if name not in FORMATS:
        raise UserError(f"unknown format '{name}'; choose from: {', '.join(FORMATS)}")
    return FORMATS[name]
