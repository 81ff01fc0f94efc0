"""Find a backbone among other arrays: the prefix under which most of the names are known."""

from collections.abc import Iterable, Sequence
from functools import cache
from typing import NamedTuple

from fastmim_jax.errors import UserError
from fastmim_jax.export.formats import FORMATS
from fastmim_jax.export.formats.names import count_missing_names, published_name, unknown_names
from fastmim_jax.export.formats.rules import Format

# Patch embeddings; a backbone is where one of these arrays is.
EMBEDDINGS = ("encoder/patch_embed/kernel", "encoder/stem/patch/kernel", "encoder/stem/conv1/kernel")
ALIKE = 0.9  # of the known names of the best prefix, from which on another is a backbone as well
# Of several backbones, the one that evaluations of DINO and iBOT (teacher) and of MoCo v3 and BYOL take.
FIRST, LAST = {"teacher"}, {"student", "momentum", "target", "ema", "encoder_k", "encoder_m"}


class Choice(NamedTuple):
    """The arrays of a file that are taken.

    Attributes:
      prefix: of their names, with the last dot; "" for all arrays.
      outside: the other names.
      others: prefixes of other backbones in the file.
      given: whether the prefix was asked for.
    """

    prefix: str = ""
    outside: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    given: bool = False


def choose_prefix(names: Iterable[str], given: str | None = None, fmt: Format | None = None) -> Choice:
    """Choose the prefix of the backbone in a file.

    Of several alike, teachers come before students, encoders before their momentum copies, then the one
    with the most known names, then the first in the file.

    Args:
      given: a prefix, or its end, such as "base_encoder"; "" for all arrays; None to find it.
      fmt: the only format to look for; None for all.

    Raises:
      UserError: no name has the given prefix, or names have several that end so.
    """
    names = list(names)
    formats = tuple(FORMATS.values()) if fmt is None else (fmt,)
    found = _backbones(names, formats)
    prefix = _resolve(given, names, found) if given is not None else (found[0] if found else "")
    outside = tuple(name for name in names if not name.startswith(prefix))
    others = (
        tuple(x for x in found if not x.startswith(prefix) and not prefix.startswith(x)) if prefix else ()
    )
    return Choice(prefix, outside, others, given is not None)


def _backbones(names: Sequence[str], formats: tuple[Format, ...]) -> list[str]:
    """Return the prefixes of the backbones in a file, the best first."""
    candidates: dict[str, list[Format]] = {}
    for name in names:
        for end, with_end in _embeddings(formats).items():
            if name == end or name.endswith(f".{end}"):
                candidates.setdefault(name[: len(name) - len(end)], []).extend(with_end)
    scores = {}
    for order, (prefix, likely) in enumerate(candidates.items()):
        inside = [name.removeprefix(prefix) for name in names if name.startswith(prefix)]
        known = {x: len(inside) - len(unknown_names(inside, x.name)) for x in likely}
        best = max(likely, key=lambda x: (known[x], -count_missing_names(inside, x.name)))
        scores[prefix] = known[best], -count_missing_names(inside, best.name), -order
    most = max((score[0] for score in scores.values()), default=0)
    alike = [prefix for prefix, score in scores.items() if score[0] >= ALIKE * most]
    return sorted(alike, key=lambda prefix: (_rank(prefix), [-x for x in scores[prefix]]))


def _rank(prefix: str) -> int:
    """Return 0 for a teacher, 2 for a student or a momentum encoder, else 1."""
    parts = prefix.lower().split(".")
    words = {*parts, *(word for part in parts for word in part.split("_"))}
    if words & FIRST:
        return 0
    return 2 if words & LAST else 1


@cache
def _embeddings(formats: tuple[Format, ...]) -> dict[str, list[Format]]:
    """Return {published name of a patch embedding: formats}."""
    found: dict[str, list[Format]] = {}
    for fmt in formats:
        for path in EMBEDDINGS:
            name = published_name(path, fmt.name)
            if name != path:
                found.setdefault(name, []).append(fmt)
    return found


def _resolve(given: str, names: Sequence[str], found: list[str]) -> str:
    """Return the prefix that is meant by `given`."""
    end = given.strip(".")
    if not end:
        return ""
    parts = (name.split(".")[:-1] for name in names)
    known = {".".join(x[:length]) for x in parts for length in range(1, len(x) + 1)}
    if end in known:
        return f"{end}."
    ending = sorted(prefix for prefix in known if prefix.endswith(f".{end}"))
    if len(ending) == 1:
        return f"{ending[0]}."
    choices = ending or [prefix.rstrip(".") for prefix in found if prefix] or sorted(known)
    shown = ", ".join(choices[:8]) + (", ..." if len(choices) > 8 else "")
    seen = "several prefixes of names end in" if ending else "no name starts with"
    raise UserError(f"{seen} '{end}.': choose --prefix= from: {shown or 'none, as no name has a dot'}")
