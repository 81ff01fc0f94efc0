"""The table of experiments/segmentation."""

from tables.markdown import Lines, markdown
from tables.statistics import difference, of_arms

STEPS = 300  # of the arms that are compared
LABELS = {
    "scratch": "from scratch",
    "mae_photos": "MAE on 3,000 photos",
    "mae": "MAE on the bundled photos",
    "fastmim": "FastMIM (HOG) on the bundled photos",
    "simmim": "SimMIM on the bundled photos",
}
HEADS = {"finetuned": "all parameters trained", "frozen": "frozen backbone"}
BASELINES = "majority class", "colour alone"


def _compared(lines: Lines, head: str) -> Lines:
    """The lines of a head, named by their method."""
    chosen = [line for line in lines if line["head"] == head and line["steps"] == STEPS]
    return [{**line, "name": line["method"]} for line in chosen]


def table(lines: Lines) -> str:
    """Return mIoU by method and head, against from scratch, and the baselines."""
    rows = []
    for head, title in HEADS.items():
        chosen = _compared(lines, head)
        found = of_arms(chosen, "miou")
        for name, label in LABELS.items():
            if name not in found:
                continue
            gain = difference(found[name], found["scratch"]) if name != "scratch" else None
            seeds = ", ".join(f"{100 * line['miou']:.1f}" for line in chosen if line["name"] == name)
            rows.append([label, title, seeds, str(found[name]), f"{gain}: {gain.verdict}" if gain else ""])
    if not rows:
        return "Not run yet."
    to_beat = lines[0]["to_beat"]
    rows += [[name, "", "", f"{100 * to_beat[name]:.1f} %", ""] for name in BASELINES]
    return markdown(("", "", "mIoU by seed, %", "mean and spread", "over from scratch"), rows)


def ten_minutes(lines: Lines) -> str:
    """Return the mIoU of the longer run from scratch, beside its baselines."""
    longer = [line for line in lines if line["method"] == "scratch" and line["steps"] > STEPS]
    if not longer:
        return "Not run yet."
    line = longer[0]
    beaten = ", ".join(f"{name} {100 * line['to_beat'][name]:.1f} %" for name in BASELINES)
    return (
        f"{100 * line['miou']:.1f} % mIoU after {line['steps']} updates and {line['cpu_seconds']} CPU "
        f"seconds, compilation and evaluations included ({beaten})"
    )


def cell(lines: Lines) -> str:
    """Return the mIoU of all methods with all parameters trained."""
    found = of_arms(_compared(lines, "finetuned"), "miou")
    if not found:
        return "not run yet"
    texts = ", ".join(f"{LABELS[name]} {found[name]}" for name in LABELS if name in found)
    number = len({line["seed"] for line in lines if line["steps"] == STEPS})
    return f"mIoU {texts}; {number} seed{'s' * (number != 1)}"
