"""The command line of the ahead-of-time experiments: configs, results file, tables."""

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax

from ahead_of_time import figures
from fastmim_jax.errors import UserError

IDENTITY = ("target", "jax", "compiler_options", "config", "images", "depth", "overrides", "program")
COLUMNS = {
    "config": lambda row: row["config"],
    "blocks": lambda row: row["depth"] or "all",
    "images a device": lambda row: row["images"],
    "overrides": lambda row: " ".join(row["overrides"]) or "–",
    "compile CPU s": lambda row: f"{row['compile_cpu_seconds']:.0f}",
    "trace CPU s": lambda row: f"{row['trace_cpu_seconds']:.0f}",
    "temporaries, GiB": lambda row: f"{row['temporary_bytes'] / 2**30:.2f}",
    "peak, GiB (GB)": lambda row: f"{row['peak_bytes'] / 2**30:.2f} ({row['peak_bytes'] / 1e9:.2f})",
    "bytes accessed, GB": lambda row: f"{row['bytes_accessed'] / 1e9:.1f}",
    "FLOPs, G": lambda row: f"{row['flops'] / 1e9:.0f}",
    "matrix FLOPs of the jaxpr, G": lambda row: (
        f"{row['matrix_flops'] / 1e9:.0f}" if row["matrix_flops"] else "–"
    ),
    "copies and transposes, GB": lambda row: _counted(row["moves"]),
    "collectives, MB": lambda row: _counted(row["collectives"], 1e6) if row["collectives"] else "none",
    "uncombined all-reduces": lambda row: sum(row["uncombined_all_reduces"].values()),
}


def _counted(counts: dict[str, list[int]], unit: float = 1e9) -> str:
    """Return "total (count)" of {name: [count, bytes]}."""
    number, size = (sum(values) for values in zip(*counts.values(), strict=True)) if counts else (0, 0)
    return f"{size / unit:.1f} ({number})"


def make_parser(description: str, results: Path) -> argparse.ArgumentParser:
    """Return the parser of the arguments that both experiments have."""
    parser = argparse.ArgumentParser(
        description=description, epilog="Overrides: dotted keys of the config, such as method.remat=full."
    )
    parser.add_argument("config", nargs="?", help="FILE:VARIANT of configs/, such as fastmim:vit_b16")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="keys of the config")
    parser.add_argument("--images", type=int, help="images a device; default: the table's in this script")
    parser.add_argument("--depth", type=int, default=0, help="blocks of the backbone; 0: the recipe's")
    parser.add_argument("--hog", action="store_true", help="compile the reconstruction target alone")
    parser.add_argument("--all", action="store_true", help="every published base config")
    parser.add_argument("--again", action="store_true", help="compile also what the results file has")
    parser.add_argument("--table", action="store_true", help="print the results file as a table, and stop")
    parser.add_argument("--results", type=Path, default=results, help="JSON lines, appended to")
    parser.add_argument("--hlo", type=Path, help="a file to write the optimised HLO to")
    return parser


def run(
    args: argparse.Namespace,
    target: str,
    open_devices: Callable[[], list],
    images_of: dict[str, int],
    options: dict[str, Any],
) -> None:
    """Compile what the arguments name; append and print one JSON line each.

    Args:
      args: of `make_parser`.
      target: the devices, as written in the results.
      open_devices: () -> the devices to compile for.
      images_of: {config: images a device} of the published base configs.
      options: of the compiler.
    """
    if args.table:
        print("\n".join(table(read(args.results))))
        return
    if not args.all and not args.config:
        raise SystemExit("name a config, such as fastmim:vit_b16, or --all")
    overrides = sorted(args.overrides)
    if args.all and args.config:  # with --all there is no config before the overrides
        overrides = sorted([args.config, *overrides])
    done = {_identity(row) for row in read(args.results) if "error" not in row}
    for name in images_of if args.all else [args.config]:
        row = {
            "target": target,
            "jax": jax.__version__,
            "compiler_options": options,
            "config": name,
            "images": args.images or images_of.get(name, 64),
            "depth": args.depth,
            "overrides": overrides,
            "program": "target" if args.hog else "step",
        }
        if _identity(row) in done and not args.again:
            print(f"{name}: already in {args.results}; --again compiles it anew", flush=True)
            continue
        row |= {"commit": figures.commit(), **_measure(row, open_devices(), args.hlo)}
        args.results.parent.mkdir(parents=True, exist_ok=True)
        with args.results.open("a") as file:
            print(json.dumps(row), file=file)
        print(json.dumps(row), flush=True)
        jax.clear_caches()


def _identity(row: dict) -> str:
    return json.dumps([row[key] for key in IDENTITY], sort_keys=True)


def _measure(row: dict, devices: list, hlo_file: Path | None) -> dict:
    """Return the figures of a row; {"error": ...} if the compiler refuses it (memory, for example)."""
    try:
        config = figures.load_config(row["config"], row["overrides"], row["depth"])
        stage, batch = figures.build(config, devices, row["images"])
        if row["program"] == "target":
            return figures.target_figures(stage, row["compiler_options"], hlo_file)
        return figures.step_figures(stage, batch, row["compiler_options"], hlo_file)
    except UserError as error:
        raise SystemExit(f"{row['config']}: {error}") from error
    except jax.errors.JaxRuntimeError as error:
        return {"error": str(error)[:2000]}


def read(path: Path) -> list[dict]:
    """Return the rows of a results file, [] if there is none."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def table(rows: Sequence[dict]) -> list[str]:
    """Return the lines of Markdown tables of steps and of targets; of equal rows the last one counts."""
    rows = list({_identity(row): row for row in rows}.values())
    steps = [row for row in rows if row["program"] == "step"]
    lines = []
    for heading in dict.fromkeys((row["target"], row["jax"]) for row in steps):
        lines += [f"{heading[0]}, jax {heading[1]}", ""]
        lines += [f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
        lines += [_line(row) for row in steps if (row["target"], row["jax"]) == heading] + [""]
    for row in rows:
        if row["program"] == "target" and "error" not in row:
            lines.append(
                f"{row['target']}, target of {row['config']}, {row['images']} images a device: "
                f"temporaries of {row['image_copies']:.2f} float32 copies of the batch, "
                f"{row['bytes_accessed'] / 1e9:.2f} GB accessed"
            )
    return lines


def _line(row: dict) -> str:
    if "error" in row:
        cells = [f"{COLUMNS[name](row)}" for name in list(COLUMNS)[:4]]
        return f"| {' | '.join(cells)} | {row['error'].splitlines()[0][:200]} |"
    return f"| {' | '.join(str(cell(row)) for cell in COLUMNS.values())} |"
