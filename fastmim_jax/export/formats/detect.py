"""Which format a state dict is in, told by its names."""

from fastmim_jax.errors import UserError
from fastmim_jax.export.formats.names import FORMATS, unknown, unused

LARGEST_SHARE = 0.5  # of names that a format may not know, and still be named as the nearest


def candidates(names):
    """Formats that know most of the names, [Format], the likeliest first.

    Of those that know the same number of names, one comes first whose signs are among them, and then one
    that lacks less of what it expects.

    Raises:
      UserError: none knows half of them.
    """
    names = list(names)
    scores = {known: _score(names, known) for known in FORMATS.values()}
    ranked = sorted(scores, key=scores.get)
    fewest = scores[ranked[0]][0]
    if not names or fewest > LARGEST_SHARE * len(names):
        raise UserError(
            f"{len(names)} names such as {', '.join(names[:3])} are of no known format: expected one of "
            f"{', '.join(FORMATS)}"
        )
    return [known for known in ranked if scores[known][0] == fewest]


def _score(names, known):
    """Smaller is likelier."""
    signs = {name.split(".")[-1] for name in names} & set(known.signs)
    return len(unknown(names, known.name)), -len(signs), unused(names, known.name)


def find_format(name):
    """The Format of a name.

    Raises:
      UserError: there is none.
    """
    if name not in FORMATS:
        raise UserError(f"unknown format '{name}': there is {', '.join(FORMATS)}")
    return FORMATS[name]
