"""Inject every fault into a tiny run, and write what the user saw.

    python experiments/faults/run.py                     # all rows, about an hour on two cores
    python experiments/faults/run.py --rows="disk full" "SIGTERM"
    python experiments/faults/run.py --kills=30          # random kills, a third of each kind
    python experiments/faults/run.py --table             # results.jsonl as a table

Rows with a file system of their own need the right to mount one; "disk hangs" needs gcc.
"""

import argparse
import json
import re
import sys
import tempfile
import time
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import damage  # noqa: E402
import disks  # noqa: E402
import files  # noqa: E402
import kills  # noqa: E402
import pods  # noqa: E402
import signals  # noqa: E402
from case import Case, Shared  # noqa: E402

ROWS = kills.ROWS | damage.ROWS | disks.ROWS | signals.ROWS | files.ROWS | pods.ROWS
RESULTS = Path(__file__).parent / "results.jsonl"


def main() -> None:
    """Run the rows that are asked for; exit with 1 if one was not held."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", nargs="*", default=list(ROWS), help="names of rows; default: all")
    parser.add_argument("--tries", type=int, default=1, help="of every row")
    parser.add_argument("--kills", type=int, default=0, help="random kills instead of rows")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument(
        "--table", action="store_true", help="print the table of the results, and run nothing"
    )
    options = parser.parse_args()
    if options.table:
        print(table([json.loads(line) for line in options.results.read_text().splitlines()]))
        return
    kinds = list(kills.KILLS.items())
    random_kills = {
        f"random kill {n}: {kinds[n % 4][0]}": lambda case, n=n: kinds[n % 4][1](case, n)
        for n in range(options.kills)
    }
    rows = random_kills or {name: ROWS[name] for name in options.rows}
    with tempfile.TemporaryDirectory() as folder:
        shared = Shared(Path(folder) / "shared")
        tries = [pair for pair in rows.items() for _ in range(options.tries)]
        held = [_run(name, row, shared, options.results) for name, row in tries]
    print(f"{sum(held)} of {len(held)} held")
    sys.exit(not all(held))


def _run(name, row, shared, results):
    case, began = Case(shared), time.monotonic()
    try:
        row(case)
    except Exception:
        case.problem(traceback.format_exc()[-500:])
    outcome = case.outcome
    line = {
        "fault": name,
        "held": not outcome.problems,
        "steps_lost": outcome.lost,
        "exit_codes": outcome.codes,
        "said": outcome.said.replace(str(case.folder), "DIR").replace(str(shared.folder), "DIR")[:300],
        "problems": outcome.problems,
        "seconds": round(time.monotonic() - began, 1),
    }
    with results.open("a") as file:
        file.write(json.dumps(line) + "\n")
    print("held" if line["held"] else "FAILED", name, outcome.problems, flush=True)
    return line["held"]


def table(lines: list[dict]) -> str:
    """Return the results of every row as a Markdown table; the sentence is that of its last try."""
    tries: dict[str, list[dict]] = {}
    for line in lines:
        tries.setdefault(re.sub(r"^random kill \d+", "random kills", line["fault"]), []).append(line)
    rows = ["| fault | held | steps lost | exit codes | what the user saw |", "|---|---|---|---|---|"]
    for name, found in tries.items():
        held = sum(line["held"] for line in found)
        lost = sorted({line["steps_lost"] for line in found if line["steps_lost"] is not None})
        codes = ", ".join(map(str, found[-1]["exit_codes"]))
        cells = [name, f"{held} of {len(found)}", ", ".join(map(str, lost)), codes, found[-1]["said"]]
        rows.append(f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |")
    return "\n".join(rows)


if __name__ == "__main__":
    main()
