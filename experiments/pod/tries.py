"""Stop and kill tiny runs of two and of four real processes, again and again.

    python experiments/pod/tries.py                    # 20 tries of every mode; those made before count
    python experiments/pod/tries.py --tries=3 --modes="2 processes"     # of modes that begin so
    python experiments/pod/tries.py --table            # results.jsonl as a table

A run of `fastmim finetune` is stopped in every mode, in a random order, and resumed each time by the same
command. Every metric must equal, to the bit, that of an undisturbed run of as many processes.
"""

import argparse
import collections
import itertools
import json
import os
import random
import shutil
import signal
import statistics
import sys
import tempfile
from pathlib import Path

from modes import COUNTS, all_modes

REPOSITORY = Path(__file__).parents[2]
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "tests")]
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")  # compiles faster

RESULTS = Path(__file__).parent / "results.jsonl"


def read_results(path: Path) -> dict[str, list[dict]]:
    """Return {mode: its tries}."""
    tries = collections.defaultdict(list)
    for line in path.read_text().splitlines() if path.exists() else []:
        tries[json.loads(line)["mode"]].append(json.loads(line))
    return tries


def table(tries: dict[str, list[dict]]) -> str:
    """Return the results as a Markdown table."""
    columns = ["mode", "held", "in the moment", "evaluations given up"]
    columns += ["seconds from signal to end: median, most", "CPU s"]
    rows = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for mode in all_modes():
        found = tries.get(mode.name, [])
        seconds = [line["seconds"] for line in found if "seconds" in line]
        cpu = [line["cpu"] for line in found if "cpu" in line]
        held, inside = (sum(line.get(key, False) for line in found) for key in ("held", "in_moment"))
        given_up = sum(line.get("given_up", False) for line in found) or ""
        times = f"{statistics.median(seconds):.2f}, {max(seconds):.2f}" if seconds else ""
        work = f"{statistics.median(cpu):.1f}" if cpu else ""
        rows.append(f"| {mode.name} | {held} of {len(found)} | {inside} | {given_up} | {times} | {work} |")
    return "\n".join(rows)


def make_missing(folder: Path, options: argparse.Namespace, tries: dict[str, list[dict]]) -> bool:
    """Make the missing tries, a round of all modes after the other -> whether all held."""
    from chain import Chain, Pod  # here: the table needs no JAX

    pod, held = Pod(folder), []

    def write(line: dict) -> None:
        with options.results.open("a") as file:
            file.write(json.dumps(line) + "\n")
        tries[line["mode"]].append(line)
        held.append(line["held"])
        print("held" if line["held"] else "FAILED", line, flush=True)

    for number, count in itertools.product(range(options.tries), COUNTS):
        modes = [mode for mode in all_modes() if mode.name.startswith(options.modes)]
        modes = [mode for mode in modes if mode.count == count and len(tries[mode.name]) <= number]
        random.Random(f"{count} {number}").shuffle(modes)
        while modes:
            modes = Chain(pod, count, write).make_tries(modes, number)
    return all(held)


def main() -> None:
    """Make the missing tries, or print the table; exit with 1 if a try did not hold."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tries", type=int, default=20, help="of every mode")
    parser.add_argument("--modes", default="", help="how the names of the modes begin; default: all")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true", help="print the table, and run nothing")
    options = parser.parse_args()
    tries = read_results(options.results)
    if options.table:
        print(table(tries))
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # by way of `forked.kill_all`
    folder = Path(tempfile.mkdtemp(prefix="pod-"))
    held = make_missing(folder, options, tries)
    if held:
        shutil.rmtree(folder)
    sys.exit(not held)


if __name__ == "__main__":
    main()
