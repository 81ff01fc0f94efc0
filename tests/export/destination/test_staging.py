"""Exports are swapped in one step: killed at any moment, the old one or the new one is there."""

import contextlib
import hashlib
import itertools
import json
import os
import random
import signal
import time

import pytest

from fastmim_jax.errors import UserError
from fastmim_jax.export.destination import staging
from fastmim_jax.export.destination.check import check_replaceable
from fastmim_jax.export.destination.contents import FILE, find_foreign
from fastmim_jax.export.destination.staging import clean_leftovers, staged, staging_folder
from fastmim_jax.export.programs.stablehlo import SIGNATURE, _sign, describes
from fastmim_jax.train.stop_signal import Stopped
from helpers.sweeps import sweep

# Forked processes here use nothing of JAX.
pytestmark = pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning")


def write_folder(path, text, check=None):
    """Write a folder of two files and a folder as an export."""
    with staged(path, check or (lambda place: check_replaceable(place, folder=True)), describes) as place:
        (place / "deep" / "er").mkdir(parents=True)
        for name in ("a.txt", "deep/b.txt", "deep/er/.c"):
            (place / name).write_text(text)


def write_program(path, text):
    """Write a file and its description as an export."""
    check = lambda place: check_replaceable(place, folder=False, described=True)  # noqa: E731
    with staged(path, check, describes) as place:
        place.write_text(text)
        content = {"sha256": hashlib.sha256(text.encode()).hexdigest(), "text": text}
        beside = place.with_name(f"{place.name}.json")
        beside.write_text(json.dumps({**content, SIGNATURE: _sign(content)}))


def state(path):
    """The text of an export, which all of its files share; an error if they do not."""
    if path.is_dir():
        assert find_foreign(path) == []
        (text,) = {(path / name).read_text() for name in ("a.txt", "deep/b.txt", "deep/er/.c")}
        return text
    assert json.loads(path.with_name(f"{path.name}.json").read_text())["text"] == path.read_text()
    return path.read_text()


def without_exchange(monkeypatch):
    monkeypatch.setattr(staging, "exchange", lambda a, b: False)


@pytest.mark.parametrize("write", [write_folder, write_program])
@pytest.mark.parametrize("exchanges", [True, False])
def test_an_export_is_replaced_and_nothing_stays_beside_it(write, exchanges, tmp_path, monkeypatch):
    if not exchanges:
        without_exchange(monkeypatch)
    path = tmp_path / "made" / "x"
    for text in ("old", "new", "newer"):
        write(path, text)
        assert state(path) == text
    names = {entry.name for entry in path.parent.iterdir()}
    assert names == ({"x"} if write is write_folder else {"x", "x.json"})


@pytest.mark.parametrize("error", [ValueError, OSError(28, "No space left on device")])
def test_an_error_changes_nothing(error, tmp_path):
    write_folder(tmp_path / "x", "old")
    for path, before in ((tmp_path / "x", ["x"]), (tmp_path / "made" / "y", ["x"])):
        with pytest.raises((ValueError, UserError)), staged(path, lambda place: None, describes) as place:
            place.mkdir()
            (place / "a.txt").write_text("new")
            raise error
        assert state(tmp_path / "x") == "old" and os.listdir(tmp_path) == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_ends_it_and_changes_nothing(number, tmp_path):
    write_folder(tmp_path / "x", "old")
    before = signal.getsignal(number)
    with pytest.raises((Stopped, KeyboardInterrupt)) as caught:
        with staged(tmp_path / "x", lambda place: None, describes) as place:
            place.mkdir()
            os.kill(os.getpid(), number)
            time.sleep(1)
            raise AssertionError
    assert caught.type is KeyboardInterrupt or caught.value.code == 128 + number
    assert state(tmp_path / "x") == "old" and os.listdir(tmp_path) == ["x"]
    assert signal.getsignal(number) == before


def test_a_signal_whose_exception_is_swallowed_counts(tmp_path):
    write_folder(tmp_path / "x", "old")
    with pytest.raises(Stopped), staged(tmp_path / "x", lambda place: None, describes) as place:
        place.mkdir()
        with contextlib.suppress(BaseException):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1)
    assert state(tmp_path / "x") == "old" and os.listdir(tmp_path) == ["x"]


def test_a_signal_in_the_swap_waits_for_its_end(tmp_path, monkeypatch):
    write_folder(tmp_path / "x", "old")
    rename = os.rename

    def signalled(a, b):
        os.kill(os.getpid(), signal.SIGTERM)
        rename(a, b)

    without_exchange(monkeypatch)
    monkeypatch.setattr(os, "rename", signalled)
    with pytest.raises(Stopped):
        write_folder(tmp_path / "x", "new")
    assert state(tmp_path / "x") == "new" and os.listdir(tmp_path) == ["x"]


def in_child(function):
    """Run a function in a forked process that ends with it; return the number of the process."""
    number = os.fork()
    if not number:
        with contextlib.suppress(BaseException):
            function()
        os._exit(0)
    return number


CALLS = ("mkdir", "rename", "unlink", "rmdir", "replace", "fsync")


@pytest.mark.parametrize(
    ("write", "exchanges"),
    sweep(
        itertools.product((write_folder, write_program), (True, False)),
        [(write_folder, False)],
    ),
)
@pytest.mark.slow
def test_killed_before_any_call_of_the_system_the_old_or_the_new_stays(
    write, exchanges, tmp_path, monkeypatch
):
    if not exchanges:
        without_exchange(monkeypatch)
    seen = []
    for last in range(0, 200, 1 if write is write_program else 3):
        path = tmp_path / str(last) / "x"
        write(path, "old")

        def killed(path=path, last=last):
            left = [last]
            for name in CALLS:
                real = getattr(os, name)

                def call(*args, real=real, **options):
                    left[0] -= 1
                    if left[0] < 0:
                        os.kill(os.getpid(), signal.SIGKILL)
                    return real(*args, **options)

                setattr(os, name, call)
            write(path, "new")

        _, status = os.waitpid(in_child(killed), 0)
        clean_leftovers(path, describes)
        seen.append(state(path))
        assert not staging_folder(path).exists() and len(list(path.parent.iterdir())) <= 2
        if not os.WIFSIGNALED(status):
            break
    assert seen == sorted(seen, reverse=True) and seen[0] == "old" and seen[-1] == "new" and len(seen) > 8


@pytest.mark.slow
@pytest.mark.parametrize("number", sweep([signal.SIGKILL, signal.SIGTERM], [signal.SIGKILL]))
def test_killed_at_random_moments_the_old_or_the_new_stays(number, tmp_path):
    path, drawn = tmp_path / "x", random.Random(0)
    write_folder(path, "0")
    for attempt in range(1, 11):
        child = in_child(lambda text=str(attempt): [write_folder(path, text) for _ in range(50)])
        time.sleep(drawn.uniform(0.001, 0.03))
        os.kill(child, number)
        os.waitpid(child, 0)
        if number == signal.SIGTERM:
            assert os.listdir(tmp_path) == ["x"]
        assert path.exists() and int(state(path)) <= attempt
        write_folder(path, str(attempt))
        assert state(path) == str(attempt) and os.listdir(tmp_path) == ["x"]


def test_two_conversions_do_not_share_a_destination(tmp_path):
    with staged(tmp_path / "x", lambda place: None, describes) as place:
        with pytest.raises(UserError, match="another fastmim convert writes .*x: wait until it ends"):
            write_folder(tmp_path / "x", "other")
        place.mkdir()
    assert os.listdir(tmp_path) == ["x"]


def test_a_hidden_folder_of_the_users_is_left_alone(tmp_path):
    theirs = staging_folder(tmp_path / "x")
    theirs.mkdir()
    (theirs / "thesis.tex").write_text("")
    with pytest.raises(UserError, match="is in the way, which convert has not written"):
        write_folder(tmp_path / "x", "new")
    assert os.listdir(theirs) == ["thesis.tex"]


@pytest.mark.parametrize("exchanges", [True, False])
def test_a_file_that_comes_in_the_last_moment_survives(exchanges, tmp_path, monkeypatch):
    if not exchanges:
        without_exchange(monkeypatch)
    write_folder(tmp_path / "x", "old")

    def check(place):
        check_replaceable(place, folder=True)
        if place == tmp_path / "x":
            (place / "thesis.tex").write_text("mine")

    with contextlib.suppress(UserError):
        write_folder(tmp_path / "x", "new", check)
    (found,) = tmp_path.rglob("thesis.tex")
    assert found.read_text() == "mine" and not any(part.startswith(".") for part in found.parts)
    assert (tmp_path / "x" / FILE).exists()
