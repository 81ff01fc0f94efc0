"""`fastmim features`: frozen features of any folder, in a file."""

from pathlib import Path

import jax
import numpy as np

from fastmim_jax.errors import UserError
from fastmim_jax.evaluate.inference import open_inference
from fastmim_jax.io import atomic_write

FORMATS = (".npz", ".parquet")


def write_features(path, source, out, *, layers=(), step=None, batch_size=128, log=print, progress=None):
    """Writes features of every image of a source.

    Args:
      path, step: the checkpoint, as of `train.saved.load_run`.
      source: see `fastmim_jax.data.sources`.
      out: FILE.npz or FILE.parquet. Both hold `name` (n,) of the images, `label` (n,), -1 where there is
        none, `classes` (npz) or `class` (parquet), and of every chosen layer its features, (n, D) float32.
      layers: such as "block 12 mean"; () for the last one, and cls of it where there is one.
      say, progress: told a line, and the number of images done.

    Raises:
      UserError: another file format, no such layer, no checkpoint.
    """
    out = Path(out)
    writer = _writer(out)
    saved, frozen = open_inference(path, step, batch_size)
    names = _chosen(frozen, layers)
    for line in (f"features of {len(source):,} images: {', '.join(names)} of {saved.path}", *frozen.notes):
        log(line)
    found = frozen.features(source, names, progress=progress)
    if jax.process_index() == 0:
        files = np.array([source.name(int(index)) for index in found.index])
        with atomic_write(out) as temporary:
            writer(temporary, files, found.label, source.classes, found.of)
    shapes = ", ".join(f"{name} {x.shape[1]} wide" for name, x in found.of.items())
    bad = f"; {found.bad:,} could not be decoded and are left out" if found.bad else ""
    log(f"{out}: {len(found.index):,} images, {shapes}{bad}")


def _chosen(frozen, layers):
    there = [f"{layer} {pooling}" for layer in frozen.layers for pooling in frozen.poolings]
    unknown = [name for name in layers if name not in there]
    if unknown:
        raise UserError(f"there is no layer '{unknown[0]}': there is {', '.join(there)}")
    return list(layers) or there[-len(frozen.poolings) :]


def _writer(out):
    if out.suffix not in FORMATS:
        raise UserError(f"--out={out} ends with neither {' nor '.join(FORMATS)}: type --out=features.npz")
    if out.suffix == ".npz":
        return _write_npz
    try:
        import pyarrow  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"--out={out} needs pyarrow, which is not installed: `pip install pyarrow`, or type --out="
            f"{out.with_suffix('.npz')}"
        ) from error
    return _write_parquet


def _write_npz(path, files, labels, classes, features):
    columns = {name.replace(" ", "_"): x for name, x in features.items()}
    with path.open("wb") as file:
        np.savez(file, name=files, label=labels, classes=np.array(classes, dtype=str), **columns)


def _write_parquet(path, files, labels, classes, features):
    import pyarrow as pa
    from pyarrow import parquet

    columns = {
        "name": pa.array(files.tolist()),
        "label": pa.array(labels),
        "class": pa.array([classes[label] if label >= 0 else None for label in labels], pa.string()),
    }
    for name, x in features.items():
        values = pa.array(np.ascontiguousarray(x).ravel())
        columns[name.replace(" ", "_")] = pa.FixedSizeListArray.from_arrays(values, x.shape[1])
    parquet.write_table(pa.table(columns), path)
