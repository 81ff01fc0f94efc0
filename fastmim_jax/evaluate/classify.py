"""Accuracy over a whole data set: every image once, the last partial batch and other hosts' included."""

from functools import partial
from typing import NamedTuple

import jax
import numpy as np

from fastmim_jax.data.eval_batches import make_eval_batches
from fastmim_jax.errors import UserError
from fastmim_jax.train import stage as train_stage

ROWS = ("image", "label", "index", "valid", "undecodable")  # of a pass, that go to the devices
MOST = 5  # for top-5


class Predictions(NamedTuple):
    """What a classifier thinks of n images, in the order of the source; see `tuning.build`.

    index: (n,) record. label: (n,), -1 where there is none. best: (n, 5), likeliest classes first.
    probability: (n, 5) of them. rank: (n,), how many classes are likelier than the true one. loss: (n,).
    bad: how many more records could not be decoded; they count nowhere.
    """

    index: np.ndarray
    label: np.ndarray
    best: np.ndarray
    probability: np.ndarray
    rank: np.ndarray
    loss: np.ndarray
    bad: int

    @property
    def top1(self):
        """Share of images whose likeliest class is the true one."""
        return float((self.rank < 1).mean())

    @property
    def top5(self):
        """Share of images whose true class is among the five likeliest."""
        return float((self.rank < MOST).mean())

    def confusion(self, classes):
        """(K, K) counts: row the true class, column the likeliest."""
        counts = np.zeros((classes, classes), np.int64)
        np.add.at(counts, (self.label, self.best[:, 0]), 1)
        return counts


def classify(run, variables, source, records=None, progress=None):
    """A classifier's opinion of every image of a source.

    Args:
      run: `tuning.FinetuneStage`.
      variables: of its model.
      source: see `fastmim_jax.data.sources`.
      records: (m,) which of its records, None for all.
      progress: told the number of images done after each batch, or None.

    Returns:
      Judged, the same on all processes and whatever the number of devices.

    Raises:
      UserError: not one image can be decoded.
    """
    columns, bad = map_images(run, partial(run.classify, variables), source, records, progress)
    if not len(columns["index"]):
        raise UserError(f"none of the {bad:,} images of {source!r} can be decoded: give others")
    return Predictions(**columns, bad=bad)


def map_images(run, look, source, records=None, progress=None):
    """Rows that a program gives for every image of a source, in its order.

    Args:
      run: `train.train_stage.TrainStage`, which says how images are read and where they go.
      look: batch of arrays, see ROWS -> {name: (B, ...)} with "valid" and "undecodable" of the batch in it.
      source, records, progress: as of `classify`.

    Returns:
      {name: (n, ...)} of the images that could be decoded, and how many could not.
    """
    size = batch_size(run, len(source) if records is None else len(records))
    found, done = [], 0
    with open_eval_batches(run, source, size, records) as batches:
        for batch in batches:
            rows = look(run.to_devices(_narrow(batch), size, ROWS))
            found.append(jax.device_get(rows))
            done += int(found[-1]["valid"].sum() + found[-1]["undecodable"].sum())
            if progress:
                progress(done)
    columns = {name: np.concatenate([rows[name] for rows in found]) for name in found[0]}
    valid, bad = columns.pop("valid"), columns.pop("undecodable")
    return {name: column[valid] for name, column in columns.items()}, int(bad.sum())


def open_eval_batches(run, source, size, records=None):
    """The pass over a source with the centre crops of a run's config, this process's rows."""
    data, settings = run.config.data, run.config.run
    return make_eval_batches(
        source,
        image_size=tuple(data.image_size),
        channels=data.channels,
        batch_size=size,
        resize=data.get("eval_resize", None),
        rows=run.rows(size),
        workers=train_stage.worker_count(settings),
        threads=settings.threads,
        records=records,
    )


def batch_size(run, records):
    """Images at once: as in training, fewer for few records, a multiple of the devices."""
    devices = run.plan.devices
    most = run.plan.batch_size // run.plan.accumulation
    return max(1, min(most, -(-records // devices) * devices) // devices) * devices


def _narrow(batch):
    return {name: x.astype(np.int32) if x.dtype == np.int64 else x for name, x in batch.items()}
