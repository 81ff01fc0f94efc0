"""Damage to the newest checkpoint and to the files of the state."""

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

from case import EVERY, STEPS, Case

NEWEST = STEPS - EVERY
DAMAGED = f"checkpoints/{NEWEST} is damaged"


def _largest(folder: Path) -> Path:
    return max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def newest(change: Callable[[Path], object], said: str = DAMAGED) -> Callable[[Case], None]:
    """Return a case in which the newest checkpoint is damaged: the one before is used, with a sentence."""

    def run(case: Case) -> None:
        case.finished()
        change(case.newest())
        case.outcome.lost = EVERY if said else 0
        case.resumes(said=said)

    return run


def beside(make: Callable[[Path], object], said: str = "") -> Callable[[Case], None]:
    """Return a case with something strange beside the checkpoints."""

    def run(case: Case) -> None:
        case.finished()
        make(case.workdir / "checkpoints")
        case.outcome.lost = 0
        case.resumes(said=said)

    return run


def state(
    name: str, content: bytes | None, codes: tuple[int, ...], said: str = ""
) -> Callable[[Case], None]:
    """Return a case in which a file of the work directory is damaged: rebuilt, or refused in a sentence."""

    def run(case: Case) -> None:
        case.finished()
        path = case.workdir / name
        path.unlink(missing_ok=True) if content is None else path.write_bytes(content)
        case.outcome.lost = 0
        output = case.end(case.start(), codes, said=said)
        if case.outcome.codes == [0] and name != "metrics.jsonl":
            case.equal()
        case.outcome.said = case.outcome.said or output.splitlines()[-1]

    return run


def bit_flips(case: Case, count: int = 200) -> None:
    """Single bits of all files of the newest checkpoint: none may load as other weights."""
    from fastmim_jax.train.checkpoint import Checkpoints

    case.finished()
    chance, folder = random.Random(0), case.newest()
    files = [path for path in folder.rglob("*") if path.is_file() and path.stat().st_size]
    held = 0
    with Checkpoints(case.workdir / "checkpoints") as checkpoints:
        for _ in range(count):
            path = chance.choice(files)
            before = path.read_bytes()
            bit = chance.randrange(8 * len(before))
            after = bytearray(before)
            after[bit // 8] ^= 1 << bit % 8
            path.write_bytes(after)
            found = checkpoints.find_whole()
            held += found.step == NEWEST - EVERY and len(found.damaged) == 1
            path.write_bytes(before)
    case.outcome.said, case.outcome.lost = f"{held} of {count} flips lead to the checkpoint before", EVERY
    if held < count:
        case.problem(case.outcome.said)
    path = _largest(folder)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    case.resumes(said=DAMAGED)


CHECKPOINT = {
    "params data truncated": lambda path: _truncate(_largest(path / "params")),
    "rest data truncated": lambda path: _truncate(_largest(path / "rest")),
    "manifest.ocdbt emptied": lambda path: (path / "params" / "manifest.ocdbt").write_bytes(b""),
    "d/ deleted": lambda path: _remove(path / "params" / "d"),
    "_METADATA of params deleted": lambda path: _remove(path / "params" / "_METADATA"),
    "_METADATA of params truncated": lambda path: _truncate(path / "params" / "_METADATA"),
    "params deleted": lambda path: _remove(path / "params"),
    "rest deleted": lambda path: _remove(path / "rest"),
    "position deleted": lambda path: _remove(path / "position"),
    "position no JSON": lambda path: (path / "position" / "metadata").write_text("{"),
    "position of wrong types": lambda path: (path / "position" / "metadata").write_text('{"records": "x"}'),
    "sums emptied": lambda path: (path / "SHA256SUMS").write_text(""),
}
ROWS = {f"newest checkpoint: {name}": newest(change) for name, change in CHECKPOINT.items()}
ROWS |= {
    "newest checkpoint: 200 single bits": bit_flips,
    "newest checkpoint: an empty directory": beside(lambda path: (path / "999").mkdir(), "999 is damaged"),
    "newest checkpoint: a name of 30 digits": beside(
        lambda path: (path / ("9" * 30)).mkdir(), "is damaged"
    ),
    "newest checkpoint: a link to /etc": beside(
        lambda path: (path / "999").symlink_to("/etc"), "999 is damaged"
    ),
    "newest checkpoint: a file": beside(lambda path: (path / "999").write_text("x")),
    "newest checkpoint: a link to itself": beside(lambda path: (path / "999").symlink_to("999")),
    "checkpoints: other names": beside(lambda path: [(path / name).mkdir() for name in ("²", "-5", "x")]),
    "newest checkpoint: _CHECKPOINT_METADATA deleted": newest(
        lambda path: _remove(path / "_CHECKPOINT_METADATA")
    ),
    "config.json emptied": state("config.json", b"", (0, 2), "config.json"),
    "config.json a list": state("config.json", b"[1]", (0, 2), "config.json"),
    "config.json binary": state("config.json", os.urandom(99), (0, 2), "config.json"),
    "config.json missing": state("config.json", None, (0, 2), "config.json"),
    "baselines.json damaged": state("baselines.json", b'["x]', (0,), "baselines.json"),
    "accumulation.json damaged": state("accumulation.json", b"", (0,), "accumulation.json"),
    "values.json damaged": state("values.json", b"[]", (0,), "values.json"),
    "metrics.jsonl not dicts": state("metrics.jsonl", b"[1]\n2\n", (0,), "metrics.jsonl"),
    "metrics.jsonl binary": state("metrics.jsonl", os.urandom(500), (0,), "metrics.jsonl"),
    "bad_files.txt binary": state("bad_files.txt", os.urandom(99), (0,), "bad_files.txt"),
    "data.json damaged": state("data.json", b"{", (2,), "data.json"),
}
