"""Legend files: the names of classes, and the colours or values that stand for them."""

import json
import os
import re
from typing import Any, NamedTuple

import numpy as np

from fastmim_jax.data.masks.base import BEYOND, IGNORE
from fastmim_jax.data.masks.coding import ColorCoding, ValueCoding, color_coding
from fastmim_jax.errors import UserError

NAMES = ("legend.txt", "legend.json", "classes.txt", "classes.json")  # found beside images/ by themselves
IGNORED_NAMES = frozenset({"ignore", "void"})  # pixels of these have no label
EXPECTED = (
    "expected a line for each class: `NAME R G B` for colours, `NAME VALUE` for values, or its name alone, "
    'in the order of the values from 0; or JSON: {"NAME": [R, G, B]}, {"NAME": VALUE} or ["NAME", ...]'
)
_LINE = re.compile(
    r"^(?:(?P<before>\d+(?:[\s,]+\d+){2}|\d+)[\s,:]+)?(?P<name>.*?)(?:[\s,:]+(?P<after>\d+(?:[\s,]+\d+){2}|\d+))?$"
)


class Legend(NamedTuple):
    """Classes of a legend file; those called as IGNORED_NAMES are none.

    names: of the K classes. coding: of the masks.
    """

    names: tuple[str, ...]
    coding: ColorCoding | ValueCoding


def find_legend(folder: str) -> str:
    """Return the path of the legend file in a folder, or "" if it has none."""
    paths = (os.path.join(folder, name) for name in NAMES)
    return next((path for path in paths if os.path.isfile(path)), "")


def read_legend(path: str) -> Legend:
    """Read a legend file.

    Raises:
      UserError: no such file, or no legend in it.
    """
    try:
        with open(path, encoding="utf-8-sig") as file:
            text = file.read()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "no text in UTF-8"
        raise UserError(f"the legend {path} cannot be read ({reason}); {EXPECTED}") from error
    entries = _from_json(path, text) if text.lstrip()[:1] in ("{", "[") else _from_lines(path, text)
    if not entries:
        raise UserError(f"the legend {path} is empty; {EXPECTED}")
    kinds = {type(code) for _, code in entries}
    if len(kinds) > 1:
        raise UserError(f"the legend {path} mixes colours, values and names alone; {EXPECTED}")
    codes = [code for _, code in entries if code is not None]
    double = next((code for code in codes if codes.count(code) > 1), None)
    if double is not None:
        names = " and ".join(repr(name) for name, code in entries if code == double)
        shown = double if isinstance(double, int) else " ".join(map(str, double))
        raise UserError(f"the legend {path} gives {shown} to {names}; expected another one for each class")
    return _make(path, entries, kinds.pop())


Code = tuple[int, int, int] | int | None
Entry = tuple[str, Code]


def _make(path: str, entries: list[Entry], kind: type) -> Legend:
    names = tuple(dict.fromkeys(name for name, _ in entries if name.casefold() not in IGNORED_NAMES))
    if kind is type(None):  # names alone: the line is the value
        entries = [(name, line) for line, (name, _) in enumerate(entries)]
        names_in_order = [name for name, _ in entries]
        if len(set(names_in_order)) < len(names_in_order):
            raise UserError(f"the legend {path} names a class twice; expected each once")
    if not names:
        raise UserError(
            f"the legend {path} has no class but {', '.join(sorted(IGNORED_NAMES))}; {EXPECTED}"
        )
    class_of = {code: names.index(name) if name in names else IGNORE for name, code in entries}
    if kind is tuple:
        return Legend(
            names, color_coding({code: c for code, c in class_of.items() if isinstance(code, tuple)})
        )
    values = {code: c for code, c in class_of.items() if isinstance(code, int)}
    table = np.full(max(256, *(value + 1 for value in values)), BEYOND, np.int32)
    table[255] = IGNORE
    for value, number in values.items():
        table[value] = number
    return Legend(names, ValueCoding(table))


def _from_lines(path: str, text: str) -> list[Entry]:
    entries: list[Entry] = []
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        match = _LINE.match(line)
        assert match is not None
        name, code = match["name"].strip(" \t,:\"'"), match["before"] or match["after"]
        if not re.search(r"[^\d\s]", name) or (match["before"] and match["after"]):
            raise UserError(f"line {number} of the legend {path} is {line!r}; {EXPECTED}")
        entries.append(
            (name, _code(path, f"line {number}", [int(x) for x in re.findall(r"\d+", code or "")]))
        )
    return entries


def _from_json(path: str, text: str) -> list[Entry]:
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"the legend {path} is no JSON ({error}); {EXPECTED}") from error
    pairs: list[tuple[Any, Any]] = (
        [(name, []) for name in content] if isinstance(content, list) else [*content.items()]
    )
    entries: list[Entry] = []
    for name, code in pairs:
        numbers = code if isinstance(code, list) else [code]
        if not isinstance(name, str) or not all(type(number) is int for number in numbers):
            raise UserError(f"the legend {path} has the entry {name!r}: {code!r}; {EXPECTED}")
        entries.append((name, _code(path, repr(name), numbers)))
    return entries


def _code(path: str, where: str, numbers: list[int]) -> Code:
    """-> the colour, the value, or None, of 3, 1 or no numbers."""
    highest = 255 if len(numbers) == 3 else 65535
    if len(numbers) not in (0, 1, 3) or not all(0 <= number <= highest for number in numbers):
        raise UserError(f"{where} of the legend {path} has the numbers {numbers}; {EXPECTED}")
    if len(numbers) == 3:
        return numbers[0], numbers[1], numbers[2]
    return numbers[0] if numbers else None
