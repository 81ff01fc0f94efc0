"""The data and parameters that a run was begun with, in data.json of its work directory."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from fastmim_jax.data.sampled_content import count_changes, hash_records
from fastmim_jax.data.sources.paths import relative_name
from fastmim_jax.errors import UserError
from fastmim_jax.io import read_json
from fastmim_jax.paths import absolute_place
from fastmim_jax.train.runs import LoadedRun, load_run, read_config
from fastmim_jax.train.warm_start import has_checkpoint

FILE = "data.json"
_HASHED = 200_000  # names at most, evenly spaced, so that a start takes less than a second more
_HASHED_READS = 1000  # the same, of a source whose names stand in its records
_HASHED_VALUES = 4096  # of an array
_KEPT = ("changes", "init")  # of data.json, in which a change of the data is recorded
_TYPES = {
    **dict.fromkeys(("names", "content", "init"), str),
    **dict.fromkeys(("classes", "samples", "changes"), list),
    "records": int,
}
_SHOWN = 8  # classes in a message


def describe_data(source: Any, evaluation: Any = None) -> dict[str, Any]:
    """Return what a run is trained and evaluated on, independent of where the data sets are.

    Returns:
      {"records", "classes", "names", "content", "samples", "evaluation"}. names: SHA-256 of the names,
      relative to the data set, and the labels of the records in order. content: SHA-256 of prepared images,
      or "". samples: see `hash_records`. evaluation: the first five of the evaluation data; None without
      any.
    """
    digest = hashlib.sha256()
    for line in _names(source):
        digest.update(line.encode("utf-8", "surrogateescape") + b"\n")
    return {
        "records": len(source),
        "classes": list(source.classes),
        "names": digest.hexdigest(),
        "content": getattr(getattr(source, "manifest", None), "sha256", ""),
        "samples": hash_records(source),
        "evaluation": None if evaluation is None else describe_data(evaluation),
    }


def check_training_data(
    workdir: str | Path,
    now: dict[str, Any],
    *,
    accept: bool,
    log: Callable[[str], None],
    classes_fixed: bool = False,
    shared: bool = False,
) -> dict[str, Any]:
    """Compare the data to those that a run was begun with; nothing is written.

    Args:
      workdir: of the run; without a checkpoint there is nothing to compare.
      now: see `describe_data`.
      accept: resume with changed data; the change is recorded.
      classes_fixed: the head has an output for each class, so that their number cannot change.
      shared: the evaluation data are a share of the training data, so that other data would mix both.

    Returns:
      The content of data.json, to be written when the run starts.

    Raises:
      UserError: the data changed.
    """
    try:
        before = _read(Path(workdir)) if has_checkpoint(workdir) else {}
    except UserError as error:
        if not accept:
            raise
        log(f"{error}; accepted")
        before = {}
    changes = before.get("changes", [])
    sentence = _differences(before, now)
    if sentence is None:
        return {**now, "changes": changes}
    if classes_fixed and len(before.get("classes", now["classes"])) != len(now["classes"]):
        raise UserError(
            f"{workdir} was begun with other data: {sentence}. The head has an output per class: "
            "restore the data, or type another --workdir"
        )
    if shared:
        raise UserError(
            f"{workdir} was begun with other data: {sentence}. The images to evaluate on are chosen from "
            "the data (config.data.eval_share), and some of them may have been trained on: restore the "
            "data, or type another --workdir"
        )
    if not accept:
        raise UserError(
            f"{workdir} was begun with other data: {sentence}. Restore the data, type another "
            "--workdir, or resume with these data: --accept_changed_data"
        )
    log(f"data changed, accepted: {sentence}")
    return {**now, "changes": [*changes, {key: x for key, x in before.items() if key not in _KEPT}]}


def check_start(workdir: str | Path, init: str, loaded: LoadedRun | None) -> dict[str, str]:
    """Compare `config.init` to the parameters that a run was begun with; they may have moved.

    Args:
      workdir: of the run. init: `config.init`.
      loaded: the run to start from; None when a run is resumed, or started from random parameters.

    Returns:
      {"init": hash of the parameters}, for data.json; {} without any.

    Raises:
      UserError: `config.init` names other parameters, or cannot be read.
    """
    if loaded is not None:
        return {"init": fingerprint(loaded.variables)}
    if not has_checkpoint(workdir) or not (Path(workdir) / "config.json").exists():
        return {}
    was, hash_was = read_config(workdir).init, _init_hash(Path(workdir))
    same = init == was or (init and was and absolute_place(was) == absolute_place(init))
    if not same and not (init and hash_was and fingerprint(load_run(init).variables) == hash_was):
        raise UserError(
            f"{workdir} was begun with other parameters: config.init was {was or 'not set'}, is "
            f"{init or 'not set'}, expected the same or a copy: type --config.init={was}, or "
            "another --workdir"
        )
    return {"init": hash_was} if hash_was else {}


def fingerprint(variables: Mapping[str, Any]) -> str:
    """Return a SHA-256 of names, shapes and evenly spaced values of {"params": nested, ...}."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(dict(variables)):
        values = np.asarray(leaf).ravel()
        digest.update(f"{jax.tree_util.keystr(path)} {np.shape(leaf)} {values.dtype}\n".encode())
        digest.update(np.ascontiguousarray(values[:: max(1, len(values) // _HASHED_VALUES)]).tobytes())
    return digest.hexdigest()


def _differences(before: dict[str, Any], now: dict[str, Any]) -> str | None:
    """-> what differs in training and evaluation data, with both values, or None."""
    parts = [_difference(before, now)]
    if before.get("evaluation") and now["evaluation"]:
        changed = _difference(before["evaluation"], now["evaluation"])
        parts.append(changed and f"in the evaluation data {changed}")
    elif "evaluation" in before and before["evaluation"] != now["evaluation"]:
        both = (before["evaluation"], now["evaluation"])
        old, new = (f"{data['records']:,} records" if data else "none" for data in both)
        parts.append(f"the evaluation data were {old}, now {new}")
    return "; ".join(filter(None, parts)) or None


def _difference(before: dict[str, Any], now: dict[str, Any]) -> str | None:
    """-> what differs in one data set, with both values, or None."""
    parts = []
    old, new = before.get("records", now["records"]), now["records"]
    if old != new:
        parts.append(f"{old:,} records were there, now {new:,}")
    old, new = before.get("classes", now["classes"]), now["classes"]
    if old != new:
        parts.append(f"classes were {_shorten(old, new)}, now {_shorten(new, old)}")
    hashes = {
        "names": "the records have other names or another order",
        "content": "other images were prepared",
    }
    for key, sentence in hashes.items():
        old, new = before.get(key, now[key]), now[key]
        if not parts and old != new:
            parts.append(f"{sentence} (hash {old[:12] or 'none'}, now {new[:12] or 'none'})")
    changed, compared = count_changes(before.get("samples", ()), now.get("samples", ()))
    if not parts and changed:
        parts.append(f"{changed} of {compared} records that were compared have other content")
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
            yield f"{relative_name(part.name(index), root)}\t{part.label(index)}"


def _init_hash(workdir: Path) -> str:
    """-> the hash of the parameters that a run was begun with, or "" where data.json has none."""
    try:
        return _read(workdir).get("init", "")
    except UserError:
        return ""  # `check_training_data` has accepted that


def _read(workdir: Path) -> dict[str, Any]:
    """-> the content of data.json; of a run from before there was one, its classes."""
    expected = (
        "the data of a run: restore it from a copy, or type --accept_changed_data to resume unchecked"
    )
    if (workdir / FILE).exists():
        content = read_json(workdir / FILE, dict, expected)
        wrong = _wrong_type(content)
        if wrong:
            raise UserError(f"{workdir / FILE} cannot be read ({wrong}), expected {expected}")
        return content
    if (workdir / "classes.json").exists():
        names = read_json(workdir / "classes.json", list, expected)
        return {"classes": [str(name) for name in names]}
    return {}


def _wrong_type(content: dict[str, Any]) -> str:
    """-> which key of data.json has another type than `describe_data` returns, or ""."""
    for key, kind in _TYPES.items():
        if not isinstance(content.get(key, kind()), kind):
            return f"{key} is {str(content[key])[:40]!r}"
    if not all(isinstance(name, str) for name in content.get("classes", [])):
        return "classes are no names"
    evaluation = content.get("evaluation")
    if evaluation is None:
        return ""
    return _wrong_type(evaluation) if isinstance(evaluation, dict) else "evaluation is no data"
