"""All processes of a run compare what they were started with, before the first step."""

import hashlib
import json
import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from fastmim_jax import __version__
from fastmim_jax.saved_config import flatten
from fastmim_jax.train.peers import AgreedError, Peers, current_peers

# Keys that each host may choose for itself.
LOCAL = ("run.workers", "run.threads", "data.path", "data.eval_path", "data.cache")
MESSAGES = {
    "version": "runs fastmim_jax {1}, {0} has {2}: install the same version on every host",
    "jax": "runs jax {1}, {0} has {2}: install the same version on every host",
    "device": "has a {1}, {0} a {2}: use hosts of one kind",
    "devices": "has {1} devices, {0} has {2}: give every process as many",
    "records": "reads {1} records, {0} reads {2}: give every host the same data",
    "names": "reads other records than {0}: give every host the same data",
    "classes": "has other classes than {0}: give every host the same data",
}


def describe_process(config: Any, data: Mapping[str, Any]) -> dict[str, Any]:
    """Return what must be the same in all processes.

    Args:
      data: see `training_data.describe_data`.
    """
    device = jax.local_devices()[0]
    flat = {key: value for key, value in flatten(config).items() if key not in LOCAL}
    return {
        "version": __version__,
        "jax": jax.__version__,
        "device": device.device_kind,
        "devices": jax.local_device_count(),
        "config": json.loads(json.dumps(flat, default=str)),
        "records": data["records"],
        "names": [data["names"], data["content"]],
        "classes": hashlib.sha256(
            "\n".join(data["classes"]).encode("utf-8", "surrogateescape")
        ).hexdigest(),
    }


def shake_hands(workdir: str | Path, config: Any, data: Mapping[str, Any]) -> None:
    """Compare this process with the others; a process that runs alone has nothing to compare.

    Raises:
      AgreedError: one differs, or does not see the work directory of process 0; all processes raise it.
    """
    peers = current_peers()
    if peers is None:
        return
    all_facts = peers.share("start", {"host": peers.host, **describe_process(config, data)})
    sentence = find_difference(all_facts)
    if not sentence:
        sees = _sees_workdir(peers, Path(workdir))
        sentence = unshared_workdir(workdir, [facts["host"] for facts in all_facts], sees)
    if sentence:
        raise AgreedError(sentence)


def find_difference(all_facts: Sequence[Mapping[str, Any]]) -> str:
    """Return a sentence about the first process that differs from process 0, or ""."""
    first = all_facts[0]
    for number, facts in enumerate(all_facts[1:], 1):
        who, other = f"process {number} on {facts['host']}", f"process 0 on {first['host']}"
        for name, text in MESSAGES.items():
            if facts[name] != first[name]:
                return f"{who} {text.format(other, facts[name], first[name])}"
        for key in sorted({*facts["config"], *first["config"]}):
            here, there = facts["config"].get(key), first["config"].get(key)
            if here != there:
                return f"{who} has config.{key}={here}, {other} has {there}: give every process one config"
    return ""


def unshared_workdir(workdir: str | Path, hosts: Sequence[str], sees: Sequence[bool]) -> str:
    """Return a sentence about the first process that does not see process 0's work directory, or ""."""
    for number, (host, seen) in enumerate(zip(hosts, sees, strict=True)):
        if not seen:
            return (
                f"process {number} on {host} does not see {workdir} of process 0 on {hosts[0]}: type "
                "--workdir=DIR with a folder on a disk that all hosts share"
            )
    return ""


def _sees_workdir(peers: Peers, workdir: Path) -> list[bool]:
    """Return whether each process sees a file that process 0 has just made in the work directory."""
    name = f".seen-by-all-{secrets.token_hex(8)}"
    if peers.process == 0:
        workdir.mkdir(parents=True, exist_ok=True)
        (workdir / name).touch()
    name = peers.share("workdir", name)[0]
    if workdir.is_dir():
        os.listdir(workdir)  # a network file system may have cached that the file is missing
    sees = peers.share("seen", (workdir / name).exists())
    if peers.process == 0:
        (workdir / name).unlink(missing_ok=True)
    return sees
