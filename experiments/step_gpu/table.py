"""Markdown tables of results.jsonl.

python experiments/step_gpu/table.py OUT/results.jsonl
"""

import json
import sys
from pathlib import Path

COLUMNS = (
    "model",
    "batch",
    "ours: ms (spread)",
    "img/s",
    "MFU",
    "GB",
    "compile s",
    "published: img/s, GB",
    "bf16, fused AdamW",
    "torch.compile",
    "ours / published",
    "ours / best eager",
    "ours / torch.compile",
)


def read_results(path):
    """Return {(case, side, mode): figures} of the last successful rows, and {same key: failure}."""
    rows, failures = {}, {}
    for line in Path(path).read_text().splitlines():
        row = json.loads(line)
        key = (row["case"], row["side"], row["mode"])
        if "failed" in row:
            failures[key] = row["failed"]
        else:
            rows[key] = {**rows.get(key, {}), **row}  # a profile is a row of its own
            failures.pop(key, None)
    return rows, failures


def tables(results, cases, compared_with):
    """Return the lines of all tables.

    Args:
      results: of `read_results`.
      cases: {name: Case}.
      compared_with: {case without a published step: the case whose published step stands beside it}.
    """
    rows, failures = results
    lines = []
    devices = sorted({row["device"] for row in rows.values() if "device" in row})
    software = sorted({row["software"] for row in rows.values() if "software" in row})
    lines += ["; ".join([*devices, *software]), "", _row(COLUMNS), "|---" * len(COLUMNS) + "|"]
    for name, case in cases.items():
        published = {
            mode: row
            for (other, side, mode), row in rows.items()
            if side == "published" and other == compared_with.get(name, name) and "img_s" in row
        }
        ours = {mode: row for (other, side, mode), row in rows.items() if (other, side) == (name, "ours")}
        for mode, row in (ours or ({"": {}} if published and name not in compared_with else {})).items():
            pixels = row.get("pixels", case.pixels)
            title = f"{case.title} {pixels} px" + (f", {mode}" if mode not in ("", "default") else "")
            lines.append(_row([title, *_own_cells(row), *_published_cells(row, published)]))
    lines += _profile_table(rows, cases)
    lines += [f"- {' '.join(key)}: {reason}" for key, reason in failures.items()]
    return lines


def _row(cells):
    return f"| {' | '.join(cells)} |"


def _own_cells(row):
    if "img_s" not in row:
        return ["–"] * 6
    return [
        str(row["batch"]),
        f"{row['ms']:.1f} ({row['ms_min']:.1f} to {row['ms_max']:.1f})",
        f"{row['img_s']:,.0f}",
        f"{row['mfu']:.1%}" if row.get("mfu") else "–",
        f"{row['peak_gb']:.1f}" if row.get("peak_gb") else "–",
        f"{row['compile_s']:.0f}",
    ]


def _published_cells(row, published):
    compiled = _best(published, ("fp16_compile", "bf16_compile"))
    shown = [published.get("fp16"), published.get("bf16"), compiled]
    compared = [published.get("fp16"), _best(published, ("fp16", "bf16")), compiled]
    ratios = [
        f"{row['img_s'] / other['img_s']:.2f}" if other and "img_s" in row else "–" for other in compared
    ]
    return [_figures(other, row) for other in shown] + ratios


def _best(published, modes):
    """Return the fastest of some modes, or None."""
    return max((published[m] for m in modes if m in published), key=lambda row: row["img_s"], default=None)


def _figures(other, row):
    """Return the throughput of a published step, with the batch if it is not ours, and the memory."""
    if other is None:
        return "–"
    cells = [f"{other['img_s']:,.0f}"]
    if other.get("peak_gb"):
        cells.append(f"{other['peak_gb']:.1f}")
    if row.get("batch", other["batch"]) != other["batch"]:
        cells.append(f"batch {other['batch']}")
    return ", ".join(cells)


def _profile_table(rows, cases):
    profiles = {key: row["ms_by_class"] for key, row in rows.items() if "ms_by_class" in row}
    if not profiles:
        return []
    names = list(dict.fromkeys(name for classes in profiles.values() for name in classes))
    lines = ["", _row(["kernels of our step, ms", *names, "sum"]), "|---" * (len(names) + 2) + "|"]
    for (case, _, mode), classes in profiles.items():
        cells = [f"{classes.get(name, 0):.1f}" for name in names] + [f"{sum(classes.values()):.1f}"]
        lines.append(_row([cases[case].title + ("" if mode == "default" else f", {mode}"), *cells]))
    return lines + [""]


if __name__ == "__main__":
    from cases import CASES, COMPARED_WITH

    print("\n".join(tables(read_results(sys.argv[1]), CASES, COMPARED_WITH)))
