"""Entries of folders that cannot be read: names that are not UTF-8, FIFOs, broken links, and the like."""

import os
import stat

from fastmim_jax.paths import to_text

NOT_UTF8 = "name that is not UTF-8"
SPECIAL = "FIFO, socket or device"
NOWHERE = "link to itself or to nothing"
FORBIDDEN = "no permission to read"
NO_FILE = "no file"

Skipped = dict[str, tuple[int, str]]  # {reason: (number, an example)}


def classify(entry: os.DirEntry) -> str:
    """Return "folder", "file", or why an entry is skipped."""
    name = entry.name
    try:
        if not name.isascii():
            name.encode()
        if entry.is_dir():
            return "folder"
        if entry.is_file():
            return "file"
        os.stat(entry.path)
    except UnicodeEncodeError:
        return NOT_UTF8
    except PermissionError:
        return FORBIDDEN
    except OSError:
        return NOWHERE
    return SPECIAL


def why_skipped(folder: str, name: str) -> str:
    """Return why a path below a folder is no file to read, or ""."""
    path = os.path.join(folder, name)
    try:
        name.encode()
        mode = os.stat(path).st_mode
    except UnicodeEncodeError:
        return NOT_UTF8
    except PermissionError:
        return FORBIDDEN
    except OSError:
        return NOWHERE if os.path.islink(path) else NO_FILE
    return "" if stat.S_ISREG(mode) else NO_FILE if stat.S_ISDIR(mode) else SPECIAL


def skip(skipped: Skipped, reason: str, path: str) -> None:
    """Count an entry that is skipped."""
    path = to_text(path)
    count, example = skipped.get(reason, (0, path))
    skipped[reason] = count + 1, min(example, path)


def describe_skipped(path: str, skipped: Skipped) -> list[str]:
    """Return a sentence on the entries of a listing that were skipped, in a list; [] without any."""
    if not skipped:
        return []
    total = sum(count for count, _ in skipped.values())
    shown = ", ".join(f"{why}: {count:,} ({name})" for why, (count, name) in skipped.items())
    return [f"{path}: {total:,} {'entry' if total == 1 else 'entries'} skipped ({shown})"]
