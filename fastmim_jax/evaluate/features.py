"""`fastmim features`: write the features of a backbone for any folder to a file."""

import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from fastmim_jax.errors import UserError
from fastmim_jax.evaluate.backbone import BackboneStage, open_backbone
from fastmim_jax.evaluate.inputs import compare_inputs
from fastmim_jax.io import atomic_write
from fastmim_jax.paths import check_output, to_text
from fastmim_jax.train.eval_memory import fit_eval_batch

FORMATS = (".npz", ".parquet")

# (path, names of the images, labels, classes, features) -> a file
Writer = Callable[[Path, np.ndarray, np.ndarray, Sequence[str], dict[str, np.ndarray]], None]


def write_features(
    path: str | Path,
    source: Any,
    out: str | Path,
    *,
    layers: Sequence[str] = (),
    step: int | None = None,
    settings: Sequence[str] = (),
    batch_size: int = 128,
    log: Callable[[str], None] = print,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Write the features of every image of a source to a file.

    Args:
      path, step, settings: the checkpoint and how it reads images, see `train.runs.load_run`.
      source: see `fastmim_jax.data.sources`.
      out: FILE.npz or FILE.parquet. Both hold `name` (n,) of the images as `to_text` writes it, `label`
        (n,), -1 where there is none, `classes` (npz) or `class` (parquet), and of every chosen layer its
        features, (n, D) float32.
      layers: such as "block 12 mean"; () for the last one, and its cls token where there is one.
      batch_size: images at once, over all devices.
      log: prints a line.
      progress: called with the number of images done.

    Raises:
      UserError: another file format, no such layer, no checkpoint.
    """
    out = Path(out)
    writer = _writer(out)
    if jax.process_index() == 0:
        check_output(out, "--out=", is_result=_is_features)
    loaded, stage = open_backbone(path, step, batch_size, settings=settings)
    compare_inputs(loaded, source)
    names = _select(stage, layers)
    for line in (f"features of {len(source):,} images: {', '.join(names)} of {loaded.path}", *stage.notes):
        log(line)
    stage = fit_eval_batch(stage, stage.pooled, len(source), log)
    features = stage.features(source, names, progress=progress)
    if jax.process_index() == 0:
        files = np.array([to_text(source.name(int(index))) for index in features.index])
        with atomic_write(out) as temporary:
            writer(temporary, files, features.label, source.classes, features.of)
    shapes = ", ".join(f"{name} {x.shape[1]} wide" for name, x in features.of.items())
    bad = f"; {features.bad:,} could not be decoded: left out" if features.bad else ""
    log(f"{out}: {len(features.index):,} images, {shapes}{bad}")


def _is_features(path: Path) -> bool:
    """Return whether `write_features` wrote a file, going by its columns."""
    try:
        if path.suffix == ".npz":
            with zipfile.ZipFile(path) as file:
                return {"name.npy", "label.npy", "classes.npy"} <= {*file.namelist()}
        from pyarrow import parquet

        return {"name", "label", "class"} <= {*parquet.read_schema(path).names}
    except (ValueError, OSError, zipfile.BadZipFile):  # pyarrow's errors are ValueError
        return False


def _select(stage: BackboneStage, layers: Sequence[str]) -> list[str]:
    """Return the names of the features to write."""
    names = list(stage.layer_of)
    unknown = [name for name in layers if name not in names]
    if unknown:
        raise UserError(f"no layer '{unknown[0]}'; choose from: {', '.join(names)}")
    return list(layers) or names[-len(stage.poolings) :]


def _writer(out: Path) -> Writer:
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


def _write_npz(
    path: Path,
    files: np.ndarray,
    labels: np.ndarray,
    classes: Sequence[str],
    features: dict[str, np.ndarray],
) -> None:
    columns: dict[str, Any] = dict(name=files, label=labels, classes=np.array(classes, dtype=str))
    columns |= {name.replace(" ", "_"): x for name, x in features.items()}
    with path.open("wb") as file:
        np.savez(file, **columns)


def _write_parquet(
    path: Path,
    files: np.ndarray,
    labels: np.ndarray,
    classes: Sequence[str],
    features: dict[str, np.ndarray],
) -> None:
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
    with path.open("wb") as file:  # pyarrow opens no path that is not UTF-8
        parquet.write_table(pa.table(columns), file)
