"""Rules of values: what a key accepts, in words and as a function."""

import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

LARGEST_INTEGER = 2**31 - 1  # what the devices count in
LARGEST_NUMBER = 1e9  # far above every sensible value, far below the largest float32


class Rule(NamedTuple):
    """The values that a key accepts.

    expected: in words, after "expected".
    example: what to type; None: the default of the key.
    names: all accepted values, if they are names: the one that was meant is found among them.
    """

    accepts: Callable[[Any], bool]
    expected: str
    example: Any = None
    names: tuple[str, ...] = ()


def integer(least: int, example: Any = None, most: int = LARGEST_INTEGER) -> Rule:
    bounds = f"at least {least}" + (f" and at most {most}" if most < LARGEST_INTEGER else "")
    return Rule(lambda x: _is_integer(x) and least <= x <= most, f"an integer of {bounds}", example)


def number(
    least: float | None = None,
    most: float = LARGEST_NUMBER,
    *,
    above: float | None = None,
    below: float = math.inf,
    example: Any = None,
) -> Rule:
    """Return the rule of a finite number; `above` and `below` are exclusive bounds."""
    bounds = [f"at least {least}"] if least is not None else []
    bounds += [f"above {above}"] if above is not None else []
    bounds += [f"at most {most:g}"] if most < LARGEST_NUMBER or not bounds else []
    bounds += [f"below {below}"] if below < math.inf else []
    low = -LARGEST_NUMBER if least is None else least
    lower = -math.inf if above is None else above
    return Rule(
        lambda x: is_number(x) and low <= x <= most and lower < x < below,
        "a number " + " and ".join(bounds) if bounds else "a number",
        example,
    )


def text(example: Any = None, empty: bool = True) -> Rule:
    return Rule(lambda x: isinstance(x, str) and (empty or bool(x)), "a name", example)


def boolean() -> Rule:
    return Rule(lambda x: isinstance(x, bool), "True or False")


def choice(names: Iterable[str]) -> Rule:
    names = tuple(names)
    listed = ", ".join(name or "''" for name in names)
    return Rule(lambda x: isinstance(x, str) and x in names, f"choose from: {listed}", names[0], names)


def several(item: Rule, expected: str, example: Any = None, lengths: tuple[int, ...] = ()) -> Rule:
    """Return the rule of a tuple of items, of one of `lengths` if any are given."""

    def accepts(x: Any) -> bool:
        return (
            isinstance(x, (tuple, list))
            and (not lengths or len(x) in lengths)
            and all(map(item.accepts, x))
        )

    return Rule(accepts, expected, example)


def ascending(item: Rule, expected: str) -> Rule:
    pair = several(item, expected, lengths=(2,))
    return Rule(lambda x: pair.accepts(x) and x[0] <= x[1], expected)


def either(first: Rule, second: Rule, expected: str, example: Any = None) -> Rule:
    return Rule(lambda x: first.accepts(x) or second.accepts(x), expected, example)


def optional(rule: Rule) -> Rule:
    return rule._replace(accepts=lambda x: x is None or rule.accepts(x))


def _is_integer(x: Any) -> bool:
    return isinstance(x, int) and not isinstance(x, bool)


def is_number(x: Any) -> bool:
    return isinstance(x, (int, float)) and not isinstance(x, bool) and math.isfinite(x)
