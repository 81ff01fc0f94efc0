"""All processes of a command compare what they were started with, before they compute together."""

import hashlib
import json
import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from fastmim_jax import __version__
from fastmim_jax.data.sampled_content import count_changes
from fastmim_jax.saved_config import flatten
from fastmim_jax.train.peers import AgreedError, Peers, current_peers
from fastmim_jax.train.remote.workdir import has_own_copy

# Keys of a config, and flags, that each host may choose for itself.
LOCAL = ("run.workers", "run.threads", "data.path", "data.eval_path", "data.legend", "data.cache")
LOCAL_FLAGS = ("coordinator", "processes", "process", "config", "workdir", "images", "test", "out")
SAME_DATA = "give every host the same data"
MESSAGES = {
    "version": "runs fastmim_jax {1}, {0} has {2}: install the same version on every host",
    "jax": "runs jax {1}, {0} has {2}: install the same version on every host",
    "device": "has a {1}, {0} a {2}: use hosts of one kind",
    "devices": "has {1} devices, {0} has {2}: give every process as many",
    "checkpoint": "loads {1}, {0} loads {2}: give every host the same work directory",
}
DATA_MESSAGES = {
    "records": f"reads {{1}} records, {{0}} reads {{2}}: {SAME_DATA}",
    "names": f"reads other records than {{0}}: {SAME_DATA}",
    "classes": f"has other classes than {{0}}: {SAME_DATA}",
}


def describe_start(flags: Mapping[str, Any]) -> dict[str, Any]:
    """Return what must be the same in all processes before anything is read; flags: {name: value}."""
    return {
        "version": __version__,
        "jax": jax.__version__,
        "device": jax.local_devices()[0].device_kind,
        "devices": jax.local_device_count(),
        "settings": {
            f"--{name}": _plain(value)
            for name, value in flags.items()
            if name not in LOCAL_FLAGS and not name.startswith("config.")
        },
    }


def describe_run(config: Any, data: Mapping[str, Any]) -> dict[str, Any]:
    """Return what must be the same in all processes of a training run; data: see `describe_data`."""
    return {
        "data": {"": _data_facts(data), "evaluation ": _data_facts(data.get("evaluation"))},
        "settings": {
            f"config.{key}": _plain(value) for key, value in flatten(config).items() if key not in LOCAL
        },
    }


def describe_inputs(checkpoint: str, *data: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return what must be the same in all processes of another command.

    Args:
      checkpoint: that is loaded, in words.
      data: of the images, and of others to test on; see `training_data.describe_data`.
    """
    kinds = ("", "test ")
    return {
        "checkpoint": checkpoint,
        "data": {kind: _data_facts(facts) for kind, facts in zip(kinds, data, strict=False)},
    }


def _data_facts(data: Mapping[str, Any] | None) -> dict[str, Any]:
    if not data:
        return {}
    classes = "\n".join(data["classes"]).encode("utf-8", "surrogateescape")
    return {
        "records": data["records"],
        "names": [data["names"], data["content"]],
        "classes": hashlib.sha256(classes).hexdigest(),
        "samples": data["samples"],
    }


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value, default=str))


def compare_processes(name: str, facts: Mapping[str, Any]) -> None:
    """Compare facts of this process with those of the others; one that runs alone has nothing to compare.

    Args:
      name: of the comparison.
      facts: such as `describe_start`.

    Raises:
      AgreedError: one differs; all processes raise it.
    """
    peers = current_peers()
    if peers is not None:
        sentence = find_difference(peers.share(name, {"host": peers.host, **facts}))
        if sentence:
            raise AgreedError(sentence)


def shake_hands(workdir: str | Path, config: Any, data: Mapping[str, Any]) -> None:
    """Compare this process of a training run with the others, and whether all see one work directory.

    Raises:
      AgreedError: one differs, or does not see the work directory of process 0; all processes raise it.
    """
    peers = current_peers()
    if peers is None:
        return
    compare_processes("run", describe_run(config, data))
    if has_own_copy():
        return
    hosts, workdirs = zip(*peers.share("workdir", [peers.host, str(workdir)]), strict=True)
    sentence = unshared_workdir(workdirs[0], hosts, _sees_workdir(peers, Path(workdir)))
    if sentence:
        raise AgreedError(sentence)


def find_difference(all_facts: Sequence[Mapping[str, Any]]) -> str:
    """Return a sentence about the first process that differs from process 0, or ""."""
    first = all_facts[0]
    for number, facts in enumerate(all_facts[1:], 1):
        who, other = f"process {number} on {facts['host']}", f"process 0 on {first['host']}"
        found = _find(MESSAGES, facts, first, other) or _find_in_data(facts, first, other)
        if found:
            return f"{who} {found}"
        here, there = facts.get("settings", {}), first.get("settings", {})
        for key in sorted({*here, *there}):
            if here.get(key) != there.get(key):
                seen = f"{who} has {key}={here.get(key)}, {other} has {there.get(key)}"
                return f"{seen}: give every process the same"
    return ""


def _find(messages: Mapping[str, str], facts: Mapping, first: Mapping, other: str) -> str:
    for name, text in messages.items():
        if facts.get(name) != first.get(name):
            return text.format(other, facts.get(name), first.get(name))
    return ""


def _find_in_data(facts: Mapping, first: Mapping, other: str) -> str:
    for kind, there in first.get("data", {}).items():
        here = facts["data"].get(kind, {})
        found = _find(DATA_MESSAGES, here, there, other)
        if not found:
            changed, compared = count_changes(there.get("samples", ()), here.get("samples", ()))
            if changed:
                found = (
                    f"reads other content than {other} under the same names, in {changed} of {compared} "
                    f"records that were compared: {SAME_DATA}"
                )
        if found:
            return f"{f'in the {kind}data ' if kind else ''}{found}"
    return ""


def unshared_workdir(workdir: str | Path, hosts: Sequence[str], sees: Sequence[bool]) -> str:
    """Return a sentence about the first process that does not see process 0's work directory, or ""."""
    for number, (host, seen) in enumerate(zip(hosts, sees, strict=True)):
        if not seen:
            return (
                f"process {number} on {host} does not see {workdir} of process 0 on {hosts[0]}: type "
                "--workdir=DIR with a folder on a disk that all hosts share, or an address such as "
                "gs://BUCKET/RUN or s3://BUCKET/RUN"
            )
    return ""


def _sees_workdir(peers: Peers, workdir: Path) -> list[bool]:
    """Return whether each process sees a file that process 0 has just made in the work directory."""
    name = f".seen-by-all-{secrets.token_hex(8)}"
    if peers.process == 0:
        workdir.mkdir(parents=True, exist_ok=True)
        (workdir / name).touch()
    name = peers.share("file", name)[0]
    if workdir.is_dir():
        os.listdir(workdir)  # a network file system may have cached that the file is missing
    sees = peers.share("seen", (workdir / name).exists())
    if peers.process == 0:
        (workdir / name).unlink(missing_ok=True)
    return sees
