"""The training data that a run was begun with, in data.json of its work directory."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from fastmim_jax.errors import UserError
from fastmim_jax.train.warm_start import has_checkpoint

FILE = "data.json"
_HASHED = 200_000  # names at most, evenly spaced, so that a start takes less than a second more
_HASHED_READS = 1000  # the same, of a source whose names stand in its records
_SHOWN = 8  # classes in a message


def describe_data(source: Any) -> dict[str, Any]:
    """Return {"records", "classes", "names"} of a source, independent of where the data set is.

    names: SHA-256 of the names, relative to the data set, and the labels of the records in order.
    """
    digest = hashlib.sha256()
    for line in _names(source):
        digest.update(line.encode("utf-8", "surrogateescape") + b"\n")
    return {"records": len(source), "classes": list(source.classes), "names": digest.hexdigest()}


def check_training_data(
    workdir: str | Path,
    source: Any,
    *,
    accept: bool,
    log: Callable[[str], None],
    classes_fixed: bool = False,
) -> dict[str, Any]:
    """Compare the training data to those that a run was begun with; nothing is written.

    Args:
      workdir: of the run; without a checkpoint there is nothing to compare.
      accept: resume with changed data; the change is recorded.
      classes_fixed: the head has an output for each class, so that their number cannot change.

    Returns:
      The content of data.json, to be written when the run starts.

    Raises:
      UserError: the data changed.
    """
    now = describe_data(source)
    before = _read(Path(workdir)) if has_checkpoint(workdir) else {}
    changes = before.get("changes", [])
    sentence = _difference(before, now)
    if sentence is None:
        return {**now, "changes": changes}
    if classes_fixed and len(before.get("classes", now["classes"])) != len(now["classes"]):
        raise UserError(
            f"{workdir} was begun with other training data: {sentence}. The head has an output per class: "
            "restore the data, or type another --workdir"
        )
    if not accept:
        raise UserError(
            f"{workdir} was begun with other training data: {sentence}. Restore the data, type another "
            "--workdir, or resume with these data: --accept_changed_data"
        )
    log(f"training data changed, accepted: {sentence}")
    return {**now, "changes": [*changes, {key: x for key, x in before.items() if key != "changes"}]}


def _difference(before: dict[str, Any], now: dict[str, Any]) -> str | None:
    """-> what differs, with both values, or None."""
    parts = []
    old, new = before.get("records", now["records"]), now["records"]
    if old != new:
        parts.append(f"{old:,} records were there, now {new:,}")
    old, new = before.get("classes", now["classes"]), now["classes"]
    if old != new:
        parts.append(f"classes were {_shorten(old, new)}, now {_shorten(new, old)}")
    if not parts and before.get("names", now["names"]) != now["names"]:
        old, new = before["names"][:12], now["names"][:12]
        parts.append(f"the records have other names or another order (hash {old}, now {new})")
    return " and ".join(parts) or None


def _shorten(names: list[str], others: list[str]) -> str:
    """-> the first names from about the first difference on."""
    same = next((i for i, (a, b) in enumerate(zip(names, others, strict=False)) if a != b), 0)
    start = same if len(names) > _SHOWN else 0
    shown = ", ".join(names[start : start + _SHOWN]) or "none"
    return ("..., " if start else "") + shown + (", ..." if start + _SHOWN < len(names) else "")


def _names(source: Any) -> Iterator[str]:
    """Yield name and label of the records of a source, or of each of several joined ones."""
    for part in getattr(source, "sources", (source,)):
        root = str(getattr(part, "path", ""))
        count, most = len(part), _HASHED if getattr(part, "names_in_memory", True) else _HASHED_READS
        for index in range(0, count, -(-count // most)):
            yield f"{_relative(part.name(index), root)}\t{part.label(index)}"


def _relative(name: str, root: str) -> str:
    for start in (root, os.path.dirname(root)) if root else ():
        if start and name.startswith(start):
            return name[len(start) :]
    return "/".join(name.split("/")[-2:]) if name.startswith("/") else name


def _read(workdir: Path) -> dict[str, Any]:
    """-> the content of data.json; of a run from before there was one, its classes."""
    try:
        if (workdir / FILE).exists():
            content = json.loads((workdir / FILE).read_text())
            return content if isinstance(content, dict) else {}
        if (workdir / "classes.json").exists():
            return {"classes": list(json.loads((workdir / "classes.json").read_text()))}
    except (OSError, ValueError) as error:
        raise UserError(f"{workdir / FILE} cannot be read ({error}): expected the data of a run") from error
    return {}
