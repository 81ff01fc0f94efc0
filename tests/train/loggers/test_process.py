"""Loggers in processes of their own, with a stand-in for the client's library: all kinds of failures."""

import json
import os
import signal
import textwrap
import time

import pytest

from fastmim_jax.config import LOGGERS, pretrain_config
from fastmim_jax.train import loggers
from fastmim_jax.train.loggers import close_all, make_loggers, process
from fastmim_jax.train.loggers.client import CLIENTS
from fastmim_jax.train.loggers.items import Picture, RunFacts, Scalars
from fastmim_jax.train.metrics import Metrics

# A library that writes what it gets to calls.jsonl; files in the work directory make it fail.
STANDIN = """
    import json, os, time

    def write(call, *values):
        with open("calls.jsonl", "a") as file:
            file.write(json.dumps([call, *values]) + "\\n")

    def fault(name):
        return os.path.exists(name)

    class Settings(dict):
        def __init__(self, **settings):
            super().__init__(settings)

    def Image(path):
        assert os.path.exists(path)
        return os.path.basename(path)

    def teardown():
        pass

    class Run:
        url = "https://example.org/run"

        def __init__(self, options):
            self.id, self.offline = options["id"], options.get("mode") == "offline"
            self.step, self.dir = 0, os.path.join(options["dir"], "wandb", "run", "files")

        def log(self, values, step):
            if fault("fail"):
                raise OSError("the server is down")
            if fault("hang"):
                time.sleep(60)
            if fault("die"):
                os.remove("die")
                os._exit(1)
            values.pop("_timestamp", None)
            write("log", step, values)

        def finish(self, exit_code):
            write("finish", exit_code)

    def init(**options):
        if fault("unreachable") and options.get("mode") != "offline":
            raise OSError("no server answers")
        options.pop("settings")
        write("init", options["id"], options["project"], options["config"], options.get("mode"))
        return Run(options)
"""


@pytest.fixture
def workdir(tmp_path, monkeypatch):
    """A work directory; the stand-in is found by this process and by those that it starts."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "wandb.py").write_text(textwrap.dedent(STANDIN))
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    (tmp_path / "run").mkdir()
    return tmp_path / "run"


def calls(workdir):
    path = workdir / "calls.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def make(workdir, **facts):
    (logger,) = make_loggers(["wandb"], RunFacts(workdir, {"seed": 1}, **facts))
    return logger


def wait_for(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.multiprocess
@pytest.mark.slow
def test_a_run_and_its_continuation(workdir):
    (workdir / "a.png").write_bytes(b"")
    config = pretrain_config()
    config.run.loggers = ("tensorboard,wandb",)
    metrics = Metrics(workdir, start=0, total=2, config=config)
    metrics.write(1, {"loss": 0.1 + 0.2})
    metrics.write_results(1, {"probe_top1": 0.5, "reconstructions": workdir / "a.png"})
    metrics.close()
    begun, *logged, finished = calls(workdir)
    assert (begun[0], begun[2], begun[4]) == ("init", "fastmim_jax", None)
    assert begun[3]["method.backbone.name"] == "vit_b16"
    pictures = ["log", 1, {"reconstructions": "a.png"}]
    assert logged == [["log", 1, {"loss": 0.1 + 0.2}], pictures, ["log", 1, {"probe_top1": 0.5}]]
    assert finished == ["finish", 1]  # interrupted
    assert json.loads((workdir / process.FILE).read_text())["wandb"]["run"] == begun[1]

    metrics = Metrics(workdir, start=1, total=2, config=config)
    metrics.write(2, {"loss": 0.25})
    metrics.done = True
    metrics.close()
    again, logged, finished = calls(workdir)[5:]
    assert again[1] == begun[1]
    assert (logged, finished) == (["log", 2, {"loss": 0.25}], ["finish", 0])


@pytest.mark.multiprocess
@pytest.mark.slow
def test_a_server_that_fails_is_told_and_gets_everything_later(workdir):
    (workdir / "fail").touch()
    logger = make(workdir)
    logger.put(Scalars(1, 1.0, {"loss": 1.0}))
    wait_for(lambda: logger.trouble)
    assert logger.trouble == "the server is down: training goes on, and it is tried again"
    (workdir / "fail").unlink()
    wait_for(lambda: logger.trouble is None)
    logger.put(Scalars(2, 2.0, {"loss": 0.5}))
    assert close_all([logger], done=True) == []
    assert [call[1] for call in calls(workdir) if call[0] == "log"] == [1, 2]


@pytest.mark.multiprocess
@pytest.mark.slow
def test_a_client_that_dies_is_replaced_and_continues_its_run(workdir):
    (workdir / "die").touch()
    logger = make(workdir)
    logger.put(Scalars(1, 1.0, {"loss": 1.0}))
    logger.put(Scalars(2, 2.0, {"loss": 0.5}))
    wait_for(lambda: ["log", 2, {"loss": 0.5}] in calls(workdir))
    assert close_all([logger], done=True) == []
    first, second, *logged, _ = calls(workdir)
    assert first[:2] == second[:2]
    assert [call[1] for call in logged] == [1, 2]


@pytest.mark.multiprocess
@pytest.mark.slow
def test_a_server_that_hangs_delays_the_end_by_a_bounded_time(workdir, monkeypatch):
    monkeypatch.setattr(loggers, "SECONDS_TO_UPLOAD", 0.2)
    (workdir / "hang").touch()
    logger = make(workdir)
    logger.put(Scalars(1, 1.0, {"loss": 1.0}))
    wait_for(lambda: calls(workdir))
    began = time.monotonic()
    lines = close_all([logger], done=True)
    assert time.monotonic() - began < 5
    lost, ended = lines
    assert lost == "Weights & Biases lacks 1 item that could not be written"
    assert ended == f"Weights & Biases was ended before it was done: type wandb sync {workdir}/wandb/run"


@pytest.mark.multiprocess
@pytest.mark.slow
def test_without_a_server_the_run_is_recorded_offline(workdir):
    (workdir / "unreachable").touch()
    logger = make(workdir, project="mine")
    logger.put(Picture(1, 1.0, "curve", workdir / "missing.png"))
    logger.put(Scalars(2, 1.0, {"loss": 1.0}))
    assert close_all([logger], done=True) == []
    begun, logged, finished = calls(workdir)
    assert (begun[2], begun[4], logged[1], finished[1]) == ("mine", "offline", 2, 0)
    offline, pictures = logger.take_notes()
    assert offline == f"recorded offline (no server answers); `wandb sync {workdir}/wandb/run` uploads it"
    assert pictures.startswith("pictures cannot be logged (")
    assert logger.take_notes() == []


@pytest.mark.multiprocess
@pytest.mark.slow
def test_stop_signals_of_the_group_do_not_end_the_client(workdir):
    logger = make(workdir)
    logger.put(Scalars(1, 1.0, {"loss": 1.0}))
    wait_for(lambda: len(calls(workdir)) == 2)
    os.killpg(logger._process._process.pid, signal.SIGTERM)
    logger.put(Scalars(2, 2.0, {"loss": 0.5}))
    assert close_all([logger], done=True) == []
    assert [call[0] for call in calls(workdir)] == ["init", "log", "log", "finish"]


def test_a_damaged_list_of_runs_is_told(workdir):
    (workdir / process.FILE).write_text("[")
    client = process.LoggerProcess("wandb", RunFacts(workdir, {}))
    assert client._read_saved() == {} == client._read_saved()
    (note,) = client.notes
    assert note.endswith("the loggers begin new runs")


def test_every_logger_with_a_package_has_a_client():
    assert set(CLIENTS) == {key for key, facts in LOGGERS.items() if facts.package}
