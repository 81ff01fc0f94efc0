"""Time this package's training steps and the published PyTorch ones on one GPU, in one run.

    python experiments/step_gpu/run.py --published=DIR --out=OUT --minutes=8

Every result is printed as a JSON line when it is there and appended to OUT/results.jsonl; OUT/run.log has
the output of all processes. Models are prepared side by side and timed one at a time, all other processes
stopped. `--tiny` tries everything at tiny sizes on a CPU.
"""

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from cases import (
    CASES,
    COMPARED_WITH,
    OURS,
    PUBLISHED,
    PUBLISHED_MODES,
    TINY_BATCH,
    make_tasks,
    parse_pairs,
    parse_variant,
)
from table import read_results, tables
from workers import Scheduler

HERE = Path(__file__).parent
RESERVED_GB = 5  # CUDA contexts
TINY_PIXELS = 64
TINY_ENVIRONMENT = {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
PEAK_TFLOPS = 989  # dense bfloat16 of an H100 or H200


def parse_arguments():
    """Return the arguments of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--published", type=Path, help="a folder with the checkouts FastMIM, mae, MixMIM, SimMIM"
    )
    parser.add_argument("--out", type=Path, default=Path("step_gpu_results"), help="output folder")
    parser.add_argument("--minutes", type=float, default=8.0, help="time limit of the whole run")
    parser.add_argument("--case-minutes", type=float, default=4.0, help="time limit of a process")
    parser.add_argument("--jobs", type=int, default=4, help="processes at a time")
    parser.add_argument("--cases", default=",".join(CASES), help="names, separated by commas")
    parser.add_argument("--sides", default=f"{OURS},{PUBLISHED}")
    parser.add_argument("--modes", default=",".join(PUBLISHED_MODES), help="of the published step")
    parser.add_argument("--batch", type=int, help="images in a step, in all cases")
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="KEY=VALUE", help="config keys of all our steps"
    )
    parser.add_argument(
        "--variant",
        nargs="+",
        action="append",
        default=[],
        metavar="WORD",
        help="CASE:NAME KEY=VALUE ...: one more run of our step; CASE may be '*'; a key 'env.NAME' is an "
        "environment variable, such as env.XLA_FLAGS",
    )
    parser.add_argument(
        "--profile", nargs="?", const="all", default="", help="cases to profile; alone: all"
    )
    parser.add_argument("--tiny", action="store_true", help="tiny sizes on the CPU")
    args = parser.parse_args()
    for option, allowed in (("cases", CASES), ("sides", (OURS, PUBLISHED)), ("modes", PUBLISHED_MODES)):
        names = [name for name in getattr(args, option).split(",") if name]
        setattr(args, option, names)
        for name in set(names) - set(allowed):
            parser.error(f"--{option}: no '{name}'; choose from: {', '.join(allowed)}")
    args.profile = args.cases if args.profile == "all" else args.profile.split(",")
    try:
        args.set = parse_pairs(args.set)
        args.variant = [parse_variant(words) for words in args.variant]
    except ValueError as error:
        parser.error(str(error))
    if args.published is None and PUBLISHED in args.sides:
        parser.error("--published=DIR is missing; type --sides=ours to time only this package")
    return args


class Recorder:
    """Prints results and appends them to files; adds the MFU of published steps, by our FLOP count."""

    def __init__(self, out):
        out.mkdir(parents=True, exist_ok=True)
        self._out, self._flops, self._start = out, {}, time.monotonic()

    def result(self, task, figures):
        """Record the figures of a task."""
        if "flops" in figures:
            self._flops[task.name] = figures["flops"]
            return
        row = {"case": task.name, "side": task.side, "mode": task.modes[0], **figures}
        flops = self._flops.get(task.name)
        if "mfu" not in row and flops and row.get("device", "").startswith(("NVIDIA H100", "NVIDIA H200")):
            row["mfu"] = round(flops * row["img_s"] / (1e12 * PEAK_TFLOPS), 4)
        row["at_s"] = round(time.monotonic() - self._start)
        line = json.dumps(row)
        print(line, flush=True)
        self.text("results.jsonl", line)

    def text(self, name, text):
        """Append text to a file of the output folder."""
        with (self._out / name).open("a") as file:
            file.write(text + "\n")

    def line(self, task, line):
        """Append a line of a process to the log."""
        self.text("run.log", f"[{task.label}] {line}")


def launcher(args, scratch):
    """Return the function task -> (command, environment) for the Scheduler."""

    def launch(task):
        case = CASES[task.name]
        ours = task.side == OURS
        changes = {**case.changes, **(case.tiny if args.tiny else {}), **task.changes}
        words = {
            "name": task.name,
            "label": task.label,
            "config": case.config,
            "changes": changes,
            "modes": task.modes,
            "pixels": TINY_PIXELS if args.tiny else case.pixels,
            "batch": args.batch or (TINY_BATCH if args.tiny else case.batch),
            "least_batch": TINY_BATCH if args.tiny else 64,
            "memory": case.memory[0 if ours else 1],
            "repository": case.repository,
            "published": str(args.published.resolve()) if args.published else "",
            "tiny": args.tiny,
            # Inductor compiles for minutes on few cores; a tiny run tries its graphs alone.
            "backend": "aot_eager" if args.tiny else "inductor",
            "stopwatch": {"warmup": 1, "groups": 2, "seconds": 0.0} if args.tiny else {},
            "profile": ours and task.name in args.profile,
        }
        cache = tempfile.mkdtemp(dir=scratch)  # compile seconds are those of a first run
        environment = {
            "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
            "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.93",
            "JAX_ENABLE_COMPILATION_CACHE": "false",
            "TF_CPP_MIN_LOG_LEVEL": "2",
            "TORCHINDUCTOR_CACHE_DIR": cache,
            "TRITON_CACHE_DIR": cache,
            "PYTHONUNBUFFERED": "1",
            **(TINY_ENVIRONMENT if args.tiny else {}),
            **task.environment,
        }
        return [str(HERE / f"{task.side}.py"), json.dumps(words)], environment

    return launch


def device_gigabytes():
    """Return the GB of the first GPU, less what contexts need; without a GPU a large number."""
    words = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        mebibytes = float(subprocess.run(words, capture_output=True, text=True).stdout.split()[0])
    except (OSError, ValueError, IndexError):
        return 1000.0
    return mebibytes * 2**20 / 1e9 - RESERVED_GB


def main():
    args = parse_arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the processes must be ended, stopped ones too
    start = time.monotonic()
    recorder = Recorder(args.out)
    tasks = make_tasks(args.cases, args.sides, args.modes, args.variant, args.set, merged=args.tiny)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        scheduler = Scheduler(
            tasks,
            launcher(args, scratch),
            jobs=args.jobs,
            device_gb=1000.0 if args.tiny else device_gigabytes(),
            task_seconds=60 * args.case_minutes,
            deadline=start + 60 * args.minutes,
            on_result=recorder.result,
            on_text=recorder.text,
            on_line=recorder.line,
        )
        scheduler.run()
    lines = tables(read_results(args.out / "results.jsonl"), CASES, COMPARED_WITH)
    (args.out / "table.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))
    print(
        f"{time.monotonic() - start:.0f} s in all; {args.out}/results.jsonl, run.log, table.md",
        file=sys.stderr,
    )


if __name__ == "__main__":
    main()
