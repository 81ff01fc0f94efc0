"""The launchers of experiments/launch: their syntax, and the commands that they run."""

import os
import subprocess
from pathlib import Path

import pytest
import yaml

from fastmim_jax.cli.commands import COMMANDS
from fastmim_jax.cli.parse import parse

FOLDER = Path(__file__).parents[1] / "experiments" / "launch"
STAND_IN = '#!/bin/bash\necho "$(basename "$0") $*" >> "$CALLS"\nexit ${CODE:-0}\n'


@pytest.fixture
def run(tmp_path):
    """-> run(script, *words, code): its exit code, and the commands that it ran."""
    for name in ("ssh", "fastmim", "srun", "gcloud", "scontrol"):
        (tmp_path / name).write_text(STAND_IN)
        (tmp_path / name).chmod(0o755)
    calls = tmp_path / "calls"

    def run(script, *words, code=0):
        known = dict(
            CALLS=str(calls), CODE=str(code), DATA="/images", WORKDIR="/shared/run", SLURM_JOB_ID="7"
        )
        environment = {**os.environ, **known, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
        found = subprocess.run(
            [str(FOLDER / script), *words], env=environment, capture_output=True, text=True
        )
        return found.returncode, sorted(calls.read_text().splitlines())

    return run


def check_command(words):
    """Parse `fastmim pretrain ...` as the command line does."""
    _, name, *flags = words
    parse(name, COMMANDS[name], flags)


@pytest.mark.parametrize("script", sorted(path.name for path in FOLDER.glob("*.sh")))
def test_scripts_are_bash(script):
    assert subprocess.run(["bash", "-n", str(FOLDER / script)], capture_output=True).stderr == b""


def test_hosts_get_their_numbers_and_one_coordinator(run):
    code, calls = run("two_hosts.sh", "a", "b", "c")
    assert code == 0 and len(calls) == 3
    for number, (host, call) in enumerate(zip("abc", calls, strict=True)):
        ssh, name, *words = call.split()
        assert (ssh, name) == ("ssh", host)
        assert {"--coordinator=a:9876", "--processes=3", f"--process={number}"} <= set(words)
        check_command(words)


@pytest.mark.parametrize(("code", "attempts"), [(0, 1), (2, 1), (143, 1), (1, 5), (139, 5)])
def test_a_crash_on_one_node_starts_again(run, code, attempts):
    found, calls = run("one_node.sh", code=code)
    assert found == code and len(calls) == attempts
    check_command(calls[0].split())


@pytest.mark.parametrize(("code", "queued"), [(0, False), (143, True), (2, False)])
def test_slurm_queues_a_stopped_run_again(run, code, queued):
    found, calls = run("slurm.sh", code=code)
    assert found == code and ("scontrol requeue 7" in calls) == queued
    (call,) = [call for call in calls if call.startswith("srun")]
    check_command(call[call.index("fastmim") :].split())


def test_all_workers_of_a_pod_run_one_command(run):
    code, calls = run("tpu_pod.sh", "pod", "zone")
    assert code == 0 and all("--worker=all" in call for call in calls) and len(calls) == 2
    start = next(call for call in calls if "nohup" in call)
    command = start[start.index("fastmim pretrain") : start.index(" >")].replace("'", "")
    check_command(command.split())


def test_the_job_set_runs_a_command_that_exists():
    (job,) = yaml.safe_load((FOLDER / "jobset.yaml").read_text())["spec"]["replicatedJobs"]
    pod = job["template"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    check_command(container["command"])
    flags = dict(word.partition("=")[::2] for word in container["command"] if "=" in word)
    assert float(flags["--config.run.grace_seconds"]) < pod["terminationGracePeriodSeconds"]
    assert job["template"]["spec"]["parallelism"] == job["template"]["spec"]["completions"]
