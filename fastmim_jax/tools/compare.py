"""Compare the log of a run with those of other runs: a table, and their curves in one picture."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from fastmim_jax.draw.compared import Curve, draw_compared
from fastmim_jax.errors import UserError
from fastmim_jax.io import JsonLines
from fastmim_jax.saved_config import flatten
from fastmim_jax.train.metrics import read_metrics
from fastmim_jax.train.runs import read_config

LAST = 0.05  # share of the logged losses, the last ones, whose mean is printed
# Keys that decide what a loss is: losses of runs that differ in them do not compare.
OF_LOSS = (
    "method.name",
    "method.target",
    "method.normalize_target",
    "method.target_scales",
    "method.block_size",
    "method.mask_ratio",
    "data.image_size",
)


class Run(NamedTuple):
    """The log of a run.

    Attributes:
      name: path as it was typed.
      lines: of metrics.jsonl.
      config: {key: value} of OF_LOSS; {} for a folder that has only a log.
    """

    name: str
    lines: JsonLines
    config: dict

    @property
    def finetuned(self) -> bool:
        """Whether the log is one of fine-tuning."""
        return any("top1" in line for line in self.lines.records)

    def values(self, key: str) -> tuple[list[int], list[float]]:
        """Return the steps of the lines with `key`, and its values."""
        lines = [line for line in self.lines.records if key in line]
        return [line["step"] for line in lines], [line[key] for line in lines]

    def curve(self) -> Curve:
        """Return the accuracies of a fine-tuned run, else the losses."""
        if self.finetuned:
            return Curve(*self.values("top1"))
        return Curve(*self.values("loss"), self.values("eval_loss"))


def compare(
    run: str, others: Sequence[str], out: str | Path | None, log: Callable[[str], None] = print
) -> Path:
    """Print the last values of runs and draw their curves.

    Args:
      run: work directory, or a folder with a metrics.jsonl.
      others: the same.
      out: PNG file; None for pictures/compared.png in `run`.
      log: prints a line.

    Returns:
      The path of the picture.

    Raises:
      UserError: no log in a folder, or runs of pre-training beside runs of fine-tuning.
    """
    if not others:
        raise UserError(
            f"nothing to compare {run} with: type --with=OTHER_RUN, or several joined by commas"
        )
    runs = [_read(path) for path in dict.fromkeys([run, *others])]
    tuned = {run.finetuned for run in runs}
    if len(tuned) > 1:
        kinds = ", ".join(f"{x.name} {'fine-tunes' if x.finetuned else 'pre-trains'}" for x in runs)
        raise UserError(f"losses and accuracies do not compare ({kinds}): name runs of one kind")
    for line in [*_table(runs), *_differences(runs)]:
        log(line)
    path = Path(out) if out else Path(run) / "pictures" / "compared.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    what = "top-1 accuracy" if tuned == {True} else "loss"
    picture = draw_compared(path, {x.name: x.curve() for x in runs}, title=f"{what} of the runs", y=what)
    log(f"curves: {picture}")
    return picture


def _read(path: str) -> Run:
    folder = Path(path)
    if not (folder / "metrics.jsonl").is_file():
        raise UserError(f"{path} has no metrics.jsonl: type the work directory of a run")
    lines = read_metrics(folder)
    if not any("loss" in line for line in lines.records):
        raise UserError(f"{path}/metrics.jsonl holds no loss yet: let the run log a step first")
    config = flatten(read_config(folder)) if (folder / "config.json").is_file() else {}
    return Run(path, lines, {key: config[key] for key in OF_LOSS if key in config})


def _table(runs: Sequence[Run]) -> Iterator[str]:
    width = max(len(run.name) for run in runs)
    for run in runs:
        steps, losses = run.values("loss")
        last = losses[-max(1, round(LAST * len(losses))) :]
        facts = [f"step {steps[-1]:,}", f"loss {sum(last) / len(last):.4f}"]
        for key, name, form in (
            ("eval_loss", "held out", "{:.4f}"),
            ("top1", "top-1", "{:.2%}"),
            ("images_per_second", "median images/s", "{:,.0f}"),
        ):
            values = run.values(key)[1]
            if values:
                value = sorted(values)[len(values) // 2] if key == "images_per_second" else values[-1]
                facts.append(f"{name} {form.format(value)}")
        if run.lines.dropped:
            facts.append(f"{run.lines.dropped:,} damaged lines left out")
        yield f"{run.name:<{width}}  " + "  ".join(facts)


def _differences(runs: Sequence[Run]) -> Iterator[str]:
    first = runs[0]
    for other in runs[1:]:
        keys = [key for key in first.config if key in other.config]
        changed = [key for key in keys if first.config[key] != other.config[key]]
        if changed and not first.finetuned:
            words = ", ".join(f"{key} {first.config[key]} and {other.config[key]}" for key in changed)
            yield f"the losses of {first.name} and {other.name} do not compare: {words}"
        elif not keys:
            yield f"no config.json in {first.name} or {other.name}: their losses may not compare"
