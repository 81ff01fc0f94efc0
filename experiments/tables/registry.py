"""The tables that stand in the READMEs of the experiments, each between two marks."""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from fastmim_jax.io import read_json_lines
from tables import cells, ideas, partial, segmentation, speeds
from tables.markdown import Lines, markdown
from tables.statistics import difference, of_arms, summarize

__all__ = ["EXPERIMENTS", "TABLES", "Table", "difference", "summarize"]
EXPERIMENTS = Path(__file__).parents[1]


class Table(NamedTuple):
    """A table of a README, or one cell of it.

    Attributes:
      folder: of the README, under experiments/.
      name: in the marks.
      log: in the folder: lines (.jsonl), or one object (.json).
      make: of the lines or the object.
      separator: between the marks and the text: nothing in a cell.
    """

    folder: str
    name: str
    log: str
    make: Callable[[Any], str]
    separator: str = "\n"

    @property
    def lines(self) -> Any:
        """The lines of the log, none without the file; or its object."""
        path = EXPERIMENTS / self.folder / self.log
        if path.suffix == ".json":
            return json.loads(path.read_text())
        return read_json_lines(path).records if path.exists() else []

    def render(self) -> str:
        """Return the README with the table in its place.

        Raises:
          ValueError: the README has no marks of this name.
        """
        text = (EXPERIMENTS / self.folder / "README.md").read_text()
        begin, end = f"<!-- table: {self.name} -->", "<!-- end -->"
        pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
        if not pattern.search(text):
            raise ValueError(f"{self.folder}/README.md has no marks {begin} ... {end}")
        made = self.separator.join((begin, self.make(self.lines), end))
        return pattern.sub(lambda _: made, text, count=1)


def accuracy_table(lines: Lines, labels: Mapping[str, str], baselines: Mapping[str, str]) -> str:
    """Return a table of fine-tuned accuracies, their gain over a baseline, and probes.

    Args:
      lines: with "name", "seed", "tuned", and for pre-trained arms "probe" and others.
      labels: name -> text of the row, in their order; names without lines are left out.
      baselines: name -> name of the arm that it is compared with.
    """
    tuned, probed = of_arms(lines, "tuned"), of_arms(lines, "probe")
    updates = {line["name"]: _updates(line) for line in lines}
    rows = []
    for name, label in labels.items():
        if name not in tuned:
            continue
        other = tuned.get(baselines.get(name, ""))
        gain = difference(tuned[name], other) if other else None
        rows.append(
            [
                label,
                updates[name],
                ", ".join(f"{100 * x['tuned']:.1f}" for x in lines if x["name"] == name),
                str(tuned[name]),
                f"{gain}: {gain.verdict}" if gain else "",
                str(probed.get(name, "")),
            ]
        )
    head = ("", "updates", "fine-tuned, by seed, %", "mean and spread", "over from scratch", "ridge probe")
    return markdown(head, rows)


def _updates(line: Mapping[str, Any]) -> str:
    """Return the updates of pre-training, and of fine-tuning where the line has them."""
    pretraining = line.get("updates") or line.get("steps")
    if "tuning_updates" in line:
        return f"{pretraining or 0:,} + {line['tuning_updates']:,}"
    return f"{pretraining:,}" if pretraining else ""


def transfer(lines: Lines) -> str:
    """The table of experiments/transfer."""
    labels = {
        "none": "ViT, from scratch",
        "fastmim_hog": "FastMIM, HOG",
        "fastmim_pixel": "FastMIM, pixels",
        "mae": "MAE",
        "pr_mim": "PR-MIM on MAE, `throw_ratio=0.5`",
        "pyramid_none": "pyramid, from scratch",
        "pyramid_fastmim_hog": "FastMIM, HOG, pyramid",
        "mixmim": "MixMIM, pyramid",
    }
    baselines = dict.fromkeys(("fastmim_hog", "fastmim_pixel", "mae", "pr_mim"), "none")
    baselines |= dict.fromkeys(("mixmim", "pyramid_fastmim_hog"), "pyramid_none")
    return accuracy_table(lines, labels, baselines)


def own_data(lines: Lines) -> str:
    """The table of experiments/own_data."""
    labels = {
        "scratch": "from scratch",
        "mae": "pre-trained on the 3,000 photos (MAE)",
        "fastmim_hog": "pre-trained on the 3,000 photos (FastMIM, HOG)",
    }
    table = accuracy_table(lines, labels, dict.fromkeys(("mae", "fastmim_hog"), "scratch"))
    majority = next((line["majority"] for line in lines if "majority" in line), None)
    row = "" if majority is None else f"\n| majority class | | | {100 * majority:.1f} % | | |"
    return table + row


def claims(group: str, by: str, size: str) -> Callable[[Lines], str]:
    """Return what makes a table of experiments/claims."""

    def make(lines: Lines) -> str:
        chosen = [x for x in lines if (x["group"], x["by"], x["size"]) == (group, by, size)]
        if not chosen:
            return "Not run yet."
        names = dict.fromkeys(line["name"] for line in chosen)
        trained = [name for name in names if "scratch" not in name]
        scratch = "scratch_longer" if by == "time" else "scratch"  # as long as pre-training and it
        baselines = {name: f"pyramid_{scratch}" if _is_pyramid(name) else scratch for name in trained}
        return accuracy_table(chosen, {name: f"`{name}`" for name in names}, baselines)

    return make


def _is_pyramid(name: str) -> bool:
    return name == "mixmim" or name.startswith("pyramid")


CLAIMS = {  # group -> what may be equal
    "main": ("updates", "time"),
    "resolution": ("updates",),
    "depth": ("updates",),
    "decoder": ("updates",),
    "target_resolution": ("updates",),
    "partial": ("updates",),
}
TABLES = (
    Table("transfer", "accuracy", "results.jsonl", transfer),
    Table("own_data", "accuracy", "results.jsonl", own_data),
    Table("partial_reconstruction", "quality", "measured_quality.jsonl", partial.quality),
    Table("partial_reconstruction", "search", "searched.jsonl", partial.search),
    Table("partial_reconstruction", "cost of the search", "searched.jsonl", partial.search_cost),
    Table("partial_reconstruction", "cost", "measured_cost.json", partial.cost),
    Table("ideas", "costs", "costs.json", ideas.costs),
    Table("segmentation", "miou", "results.jsonl", segmentation.table),
    Table("segmentation", "from scratch", "results.jsonl", segmentation.ten_minutes),
    Table("", "segmentation", "segmentation/results.jsonl", segmentation.cell, ""),
    Table("", "transfer", "transfer/results.jsonl", cells.transfer, ""),
    Table("", "transfer, longer", "transfer/longer.jsonl", cells.longer, ""),
    Table("", "own data", "own_data/results.jsonl", cells.own_data, ""),
    Table("", "partial", "partial_reconstruction/measured_quality.jsonl", cells.quality, ""),
    Table("", "search", "partial_reconstruction/searched.jsonl", cells.search, ""),
    Table("", "partial cost", "partial_reconstruction/measured_cost.json", partial.cost_at_half, ""),
    Table("", "ideas", "ideas/costs.json", ideas.ratios, ""),
    Table("", "reading", "input/measured.json", speeds.reading, ""),
    Table("", "steps on a GPU", "step_gpu/measured.jsonl", speeds.steps_on_gpu, ""),
    Table("", "pretraining cost", "pretraining_cost/measured.json", speeds.pretraining, ""),
    Table("", "pod", "pod/results.jsonl", cells.pod, ""),
    Table("", "faults", "faults/results.jsonl", cells.faults, ""),
    *(
        Table("claims", f"{group}, equal {by}, {size}", "results.jsonl", claims(group, by, size))
        for size in ("tiny", "small")
        for group, equal in CLAIMS.items()
        for by in equal
    ),
)
