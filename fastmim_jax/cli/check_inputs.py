"""Paths that a command reads, checked before JAX is imported: a mistyped one is answered at once."""

from typing import Any

from fastmim_jax.cli.command import Command
from fastmim_jax.cli.flags import FLAGS, data_path, flag_name
from fastmim_jax.errors import UserError
from fastmim_jax.paths import is_store
from fastmim_jax.run_folder import find_checkpoint, is_checkpoint

DATA_KEYS = ("data.path", "data.eval_path", "monitor.path", "monitor.masks")


def check_inputs(name: str, command: Command, values: Any, paths: list[str]) -> None:
    """Check that the data and the runs that a command reads exist.

    Raises:
      UserError: one does not.
    """
    trains = "config" in command.flags
    for flag in command.flags:
        if FLAGS[flag].resolve is data_path and values[flag_name(flag)].value:
            _check_data(values[flag_name(flag)].value, f"--{flag_name(flag)}")
    if trains and not _without_data(values, command):
        for key in DATA_KEYS:
            section, _, last = key.partition(".")
            path = values.config.get(section, {}).get(last)
            if path:
                _check_data(path, f"--config.{key}")
    if trains and values.config.init:
        _check_run(values.config.init, "--config.init")
    if "workdir" in command.required and values.workdir:
        if trains:
            _check_new_workdir(name, values.workdir)
        else:
            _check_run(values.workdir, "--workdir")
    for kind, path in zip(command.paths, paths, strict=False):
        if kind in ("SRC", "[DST]"):
            if kind == "SRC":
                _check_data(path, "")
        elif kind in ("SOURCE", "A", "B"):
            _check_model(path)


def _without_data(values: Any, command: Command) -> bool:
    return "topology" in command.flags or ("synthetic" in command.flags and values.synthetic)


def _check_data(path: str, typed: str) -> None:
    from fastmim_jax.data.sources import check_exists

    try:
        check_exists(path)
    except UserError as error:
        raise UserError(f"{typed}: {error}" if typed else str(error)) from error


def _check_run(path: str, typed: str) -> None:
    if _opens(path, f"{typed}="):
        return
    try:
        find_checkpoint(path)
    except UserError as error:
        raise UserError(f"{typed}: {error}") from error


def _check_new_workdir(name: str, path: str) -> None:
    """Raise UserError if a run would be begun inside the work directory of another one."""
    if _opens(path, "--workdir=") or not is_checkpoint(path):
        return
    workdir = find_checkpoint(path).workdir
    if str(workdir) != str(path).rstrip("/"):
        raise UserError(
            f"--workdir={path} is inside of the run {workdir}: type --workdir={workdir} to resume it, or "
            f"--config.init={path} and another --workdir to start `fastmim {name}` from it"
        )


def _check_model(path: str) -> None:
    import os

    if not _opens(path) and not os.path.exists(path):
        find_checkpoint(path)  # raises with what is near


def _opens(path: str, typed: str = "") -> bool:
    """Return whether a path is an address; raise UserError if no package opens it. Nothing is read."""
    from fastmim_jax.stores.store import Store

    return is_store(path) and bool(Store(path, typed))
