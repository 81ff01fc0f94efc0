"""The start of a run: compared with its data and work directory, then written there."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax

from fastmim_jax.data.held_out_share import SubsetSource
from fastmim_jax.io import write_json
from fastmim_jax.train.data_values import RunValues, settle_schedule, settle_values
from fastmim_jax.train.disk_probe import probed_disk
from fastmim_jax.train.handshake import shake_hands
from fastmim_jax.train.lineage import record_lineage
from fastmim_jax.train.run_lock import run_lock
from fastmim_jax.train.runs import LoadedRun
from fastmim_jax.train.state_files import repair_state_files
from fastmim_jax.train.training_data import FILE as DATA_FILE
from fastmim_jax.train.training_data import check_start, check_training_data, describe_data
from fastmim_jax.train.workdir import prepare_workdir


class RunStart(NamedTuple):
    """A run that may start in a work directory.

    config: complete. loaded: the run to start from, or None. data: content of data.json. values: of the
    training data. reasons: lines on the schedule, see `settle_schedule`.
    """

    config: Any
    loaded: LoadedRun | None
    data: dict[str, Any]
    values: RunValues
    reasons: list[tuple[str, str]]

    @property
    def notes(self) -> list[tuple[str, str]]:
        """(label, text) lines on what was decided at the start."""
        return [*self.reasons, *self.values.notes]

    @contextlib.contextmanager
    def written(self, workdir: str | Path, extend: bool = False) -> Iterator[Path]:
        """Lock the work directory and write the files of the start; yield its path, whose disk is watched.

        extend: see `prepare_workdir`.

        Raises:
          UserError: another process uses it, it holds another run, or it cannot be written to.
        """
        with run_lock(workdir):
            path = prepare_workdir(workdir, self.config, extend, self.data["records"])
            if jax.process_index() == 0:
                write_json(path / DATA_FILE, self.data)
                record_lineage(path, self.loaded)
            self.values.write(path)
            with probed_disk(path, self.config.run.disk_timeout_seconds):
                yield path


def make_run_start(
    config: Any,
    workdir: str | Path,
    source: Any,
    held_out: Any,
    resolve: Callable[[Any, str | Path], tuple[Any, LoadedRun | None]],
    *,
    log: Callable[[str], None],
    accept_changed_data: bool,
    classes_fixed: bool = False,
) -> RunStart:
    """Compare a start with the data, the other processes and the work directory, whose files are repaired.

    Args:
      source: the training data. held_out: the evaluation data, or None.
      resolve: (config, workdir) -> (complete config, the run to start from or None).
      log: prints a line.
      accept_changed_data, classes_fixed: see `check_training_data`.

    Raises:
      UserError: they do not agree, or the run to start from cannot be loaded.
    """
    repair_state_files(workdir, log)
    data = describe_data(source, held_out)
    shake_hands(workdir, config, data)
    data = check_training_data(
        workdir,
        data,
        accept=accept_changed_data,
        log=log,
        classes_fixed=classes_fixed,
        shared=isinstance(held_out, SubsetSource),
    )
    config, reasons = settle_schedule(config, len(source), workdir)
    config, loaded = resolve(config, workdir)
    data |= check_start(workdir, config.init, loaded)
    origin = loaded.config if loaded else None
    values = settle_values(config, source, workdir, log=log, start=origin, names=data["names"])
    return RunStart(values.config, loaded, data, values, reasons)
