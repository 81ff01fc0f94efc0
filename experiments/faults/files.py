"""The user's files: what `convert` may replace, and lineages that lead back to themselves."""

import contextlib
import json
import random
import shutil
import signal
import time
from pathlib import Path

from case import Case, Run


def _all_files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def foreign_files(case: Case) -> None:
    """`convert --overwrite` over a folder with the user's files: refused, nothing touched."""
    case.finished()
    mine = case.folder / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    before = _all_files(mine)
    for to in ("timm", "hf", "official", "stablehlo"):
        code, output = case.fastmim("convert", str(case.workdir), str(mine), f"--to={to}", "--overwrite")
        _refused(case, code, output)
        if _all_files(mine) != before:
            case.problem(f"--to={to} changed the user's files")


def source_and_destination(case: Case) -> None:
    """Destination = source, inside the source, or around it: refused, nothing touched."""
    case.finished()
    before = _all_files(case.workdir)
    for destination in (case.workdir, case.workdir / "checkpoints", case.workdir / "new", case.folder):
        words = ("convert", str(case.workdir), str(destination), "--to=timm", "--overwrite")
        _refused(case, *case.fastmim(*words))
        if _all_files(case.workdir) != before:
            case.problem(f"{destination.name} as destination changed the source")
            return


def killed_convert(case: Case, count: int = 20) -> None:
    """Kills during `convert --overwrite` over an older export: the old or the new one is there."""
    case.finished()
    target, chance = case.folder / "export", random.Random(0)
    words = ["convert", str(case.workdir), str(target), "--to=timm"]
    code, output = case.fastmim(*words)
    began = time.monotonic()
    case.fastmim(*words, "--overwrite")
    seconds = time.monotonic() - began
    whole = sorted(_all_files(target))
    if code:
        case.problem(output[-300:])
    for _ in range(count):
        run = Run([*words, "--overwrite"])
        time.sleep(chance.uniform(0, 1.1 * seconds))
        with contextlib.suppress(ProcessLookupError):  # it has just ended
            run.send(chance.choice([signal.SIGKILL, signal.SIGTERM]))
        run.wait(60)
        if not target.exists() or sorted(_all_files(target)) != whole:
            case.problem("neither the old nor the new export")
            return
    case.fastmim(*words, "--overwrite")
    hidden = [path.name for path in case.folder.iterdir() if path.name.startswith(".")]
    if hidden:
        case.problem(f"left beside the export: {hidden}")
    case.outcome.said = f"{count} kills"


def init_cycle(case: Case) -> None:
    """`config.init` leads back to the run itself."""
    case.finished()
    path = case.workdir / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "init": str(case.workdir)}))
    for to in ("timm", "hf"):
        code, output = case.fastmim("convert", str(case.workdir), str(case.folder / to), f"--to={to}")
        if code or "Traceback" in output:
            case.problem(f"--to={to}: exit code {code}: {output[-300:]}")
    shutil.rmtree(case.folder / "timm", ignore_errors=True)


def _refused(case, code, output):
    case.outcome.said = output.splitlines()[-1] if output else ""
    if code != 2 or "Traceback" in output:
        case.problem(f"exit code {code}, expected 2: {output[-300:]}")


ROWS = {
    "convert --overwrite over the user's files": foreign_files,
    "convert: source in destination": source_and_destination,
    "convert --overwrite killed 20 times": killed_convert,
    "config.init leads back": init_cycle,
}
