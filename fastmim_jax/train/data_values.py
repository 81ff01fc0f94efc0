"""The values of the training data of a run: decided at its start, kept in values.json and in its config."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax

from fastmim_jax.auto_schedule import KEYS as AUTO_KEYS
from fastmim_jax.auto_schedule import Filled, fill_auto, has_auto
from fastmim_jax.build import decode_rules
from fastmim_jax.data.decide_values import compare_ranges, decide_values
from fastmim_jax.errors import UserError
from fastmim_jax.io import read_json, write_json
from fastmim_jax.stages import AUTO
from fastmim_jax.train.first_process import of_first_process
from fastmim_jax.train.runs import read_config
from fastmim_jax.train.workdir import in_use

FILE = "values.json"
_KEYS = ("value_range", "nodata", "pixel_dtype")  # of config.data


class RunValues(NamedTuple):
    """The values of a run.

    config: with `data.value_range` and `data.pixel_dtype`. sentences: for the description of the run.
    content: of values.json.
    """

    config: Any
    sentences: list[str]
    content: dict[str, Any]

    @property
    def notes(self) -> list[tuple[str, str]]:
        """(label, text) for the description of the run."""
        return [("values", sentence) for sentence in self.sentences]

    def write(self, workdir: Path) -> None:
        """Write values.json, on the first process."""
        if jax.process_index() == 0:
            write_json(workdir / FILE, self.content)


def settle_values(
    config: Any,
    source: Any,
    workdir: str | Path | None = None,
    *,
    log: Callable[[str], None] = lambda text: None,
    start: Any = None,
    names: str = "",
) -> RunValues:
    """Decide the range of the values, and the dtype of the pixels, of the training data of a run.

    A run that has begun keeps what it was begun with. Otherwise the first process measures, and tells the
    others: one range, also where hosts read copies of the data set, and a data set is read once.

    Args:
      config: of the run; what it declares counts.
      source: the training data.
      workdir: of the run; None for none.
      log: prints a line.
      start: config of the run that the parameters come from, whose range counts unless one is declared.
      names: hash of the names of the records, to tell when the data has changed.

    Raises:
      UserError: see `decide_values`.
    """
    config = copy.deepcopy(config)
    found = of_first_process(lambda: _find(config, source, workdir, log, start))
    for key in _KEYS:
        value = found[key]
        config.data[key] = tuple(value) if isinstance(value, list) else value
    sentences, content = found["sentences"], found["kept"] or {"names": names, **found}
    if found["kept"] and names and content.get("names", names) != names:
        sentences.append("kept from the data that the run was begun with, although the data changed")
    return RunValues(config, sentences, content)


def settle_schedule(config: Any, records: int, workdir: str | Path) -> Filled:
    """Replace "auto" in the schedule; a run that has begun keeps the numbers that it was begun with.

    records: images in the training data.
    """
    if not has_auto(config) or not _has_begun(workdir):
        return fill_auto(config, records)
    saved, config = read_config(workdir), copy.deepcopy(config)
    for key in AUTO_KEYS:
        section, name = key.split(".")
        if config[section][name] == AUTO:
            with config.ignore_type():
                config[section][name] = saved[section][name]
    return Filled(config, [("auto", "batch, epochs, warm-up and learning rate as the run was begun with")])


def _has_begun(workdir: str | Path) -> bool:
    return in_use(Path(workdir)) and (Path(workdir) / "config.json").exists()


def _find(config, source, workdir, log, start):
    """Return {key of _KEYS: value, "sentences", "scan", "kept"}; kept: values.json of an earlier start."""
    data = config.data
    if workdir is not None and _has_begun(workdir):
        saved = read_config(workdir).data
        unset = {"value_range": (), "nodata": None, "pixel_dtype": ""}
        kept = {key: _plain(saved[key] if data[key] == unset[key] else data[key]) for key in _KEYS}
        content = read_values(Path(workdir))
        sentences = content.get("sentences", [])
        return {**kept, "sentences": sentences, "scan": None, "kept": content}
    inherited = () if start is None or data.value_range else tuple(start.data.value_range)
    rules = _rules(config, inherited, start)
    decided = decide_values(source, data.channels, rules, threads=config.run.threads, log=log)
    sentences = decided.sentences
    if decided.scan is not None and decided.rules.value_range and start is not None:
        sentences = [*sentences, *_compare(decided, start, inherited)]
    return {
        "value_range": _plain(decided.rules.value_range),
        "nodata": next(iter(decided.rules.nodata), None),
        "pixel_dtype": decided.rules.dtype,
        "sentences": sentences,
        "scan": decided.scan.to_json() if decided.scan else None,
        "kept": None,
    }


def _rules(config, inherited, start):
    """Return the declared rules of decoding, completed by those of the run to start from."""
    config = copy.deepcopy(config)
    data = config.data
    data.value_range = data.value_range or inherited
    if start is not None and data.nodata is None:
        data.nodata = start.data.nodata
    if "augment" in config and config.augment.magnitude and not data.pixel_dtype:
        data.pixel_dtype = "uint8"  # RandAugment works on 8 bits
    return decode_rules(data)


def _compare(decided, start, inherited):
    """Yield how the range of a run differs from that of the run that its parameters come from."""
    theirs, mine = tuple(start.data.value_range), tuple(decided.rules.value_range)
    if inherited:
        yield "the range is that of the run in config.init"
        difference = compare_ranges(decided.scan, mine)
        if difference:
            yield (
                f"this data has values from {difference}, as in the run of config.init: for another range "
                "type --config.data.value_range='(LOWEST, HIGHEST)'"
            )
    elif theirs != mine:
        before = f"values from {theirs[0]:g} to {theirs[1]:g}" if theirs else "8-bit images"
        yield f"the run of config.init had {before}"


def read_values(workdir: Path) -> dict[str, Any]:
    """Return the content of values.json; {} of a run from before there was one.

    Raises:
      UserError: the file cannot be read, or holds something else.
    """
    path, expected = workdir / FILE, "the values of the data of a run: delete it"
    if not path.exists():
        return {}
    content = read_json(path, dict, expected)
    sentences = content.get("sentences", [])
    if not isinstance(sentences, list) or not all(isinstance(x, str) for x in sentences):
        raise UserError(f"{path} cannot be read (it holds other values), expected {expected}")
    return content


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
