"""Print the plans of this folder as a Markdown table.

python experiments/plan/table.py
"""

import json
from pathlib import Path

HERE = Path(__file__).parent
COLUMNS = (
    *("plan", "batch", "accumulation", "parameters", "optimizer", "batch, GiB", "temporaries"),
    *("total, of usable GiB", "matrix TFLOPs, ours / XLA", "GB accessed", "collectives, MB"),
    *("ms a step at least", "hours at least", "chip-hours"),
)


def cells(name: str, stage: dict) -> list[str]:
    """Return the cells of one stage of a plan."""
    memory, seconds = stage["memory"], stage["roofline_seconds"]
    bound = max(seconds, key=seconds.get)
    kinds = [f"{memory[kind] / 2**30:.2f}" for kind in ("parameters", "optimizer", "batch", "temporaries")]
    collectives = [f"{kind} {size / 1e6:.1f} ({n})" for kind, (n, size) in stage["collectives"].items()]
    return [
        name,
        str(stage["batch_size"]),
        str(stage["accumulation"]),
        *kinds,
        f"**{stage['total_bytes'] / 2**30:.2f}** of {stage['usable_bytes'] / 2**30:.2f}",
        f"{stage['matrix_flops'] / 1e12:.4g} / {stage['xla_flops'] / 1e12:.4g}",
        f"{'about ' * stage.get('bytes_are_approximate', stage['accumulation'] > 1)}"
        f"{stage['bytes_accessed'] / 1e9:.1f}",
        "; ".join(collectives) or "none",
        f"{seconds[bound] * 1e3:.1f} ({bound})",
        f"{stage['hours_at_least']:.1f}",
        f"{stage['chip_hours_at_least']:,.0f}",
    ]


def main() -> None:
    print(f"| {' | '.join(COLUMNS)} |")
    print("|---" * len(COLUMNS) + "|")
    for path in sorted(HERE.glob("*.json")):
        for stage in json.loads(path.read_text())["stages"]:
            print(f"| {' | '.join(cells(path.stem, stage))} |")


if __name__ == "__main__":
    main()
