"""k-NN segmentation: every patch takes the labels of the training patches with the most similar features.

No parameter is trained, so it compares features themselves. Source: CAPI (arXiv 2502.08769): features
standardised, cosine similarity, and each pixel of a patch takes the most frequent label of the same pixel
in its neighbours.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fastmim_jax.data.masks.base import IGNORE
from fastmim_jax.evaluate.dense_probes.linear import LayerScores, Progress
from fastmim_jax.evaluate.dense_probes.material import DenseMaterial
from fastmim_jax.evaluate.dense_probes.patch_features import PatchFeatures
from fastmim_jax.evaluate.dense_probes.tasks import add_counts

NEIGHBORS = (1, 3, 10, 30)
MAX_PATCHES = 200_000  # of training
_QUERIES = 1024  # patches at a time
_KEYS = 65_536


class Patches(NamedTuple):
    """Training patches.

    features: (n, D), standardised and of length 1. labels: (n, l) of the l pixels of each.
    mean, scale: (D,), of the standardisation.
    """

    features: jax.Array
    labels: jax.Array
    mean: jax.Array
    scale: jax.Array


def collect(
    features: PatchFeatures,
    material: DenseMaterial,
    layers: tuple[str, ...],
    seed: int = 0,
    most: int = MAX_PATCHES,
    progress: Progress = None,
) -> dict[str, Patches]:
    """Return the training patches of layers, at most `most` of each, drawn at random.

    Patches of which more than half have no label are left out.
    """
    images, done = material.images, 0
    found: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {layer: [] for layer in layers}
    for batch in features.stream(features.evaluation(images.train, images.fit)):
        valid = np.asarray(batch.records) >= 0
        done += int(valid.sum())
        for layer in layers:
            x, labels = np.asarray(batch.features[layer]), np.asarray(batch.mask)
            found[layer].append(_usable(x[valid], labels[valid], len(images.fit), most, seed + done))
        if progress:
            progress(done)
    return {
        layer: _standardize(*map(np.concatenate, zip(*parts, strict=True)))
        for layer, parts in found.items()
    }


def score_neighbors(
    features: PatchFeatures, material: DenseMaterial, patches: dict[str, Patches]
) -> list[LayerScores]:
    """Return the scores of layers on the test images, with the best k for those to choose by."""
    images, task, lines = material.images, material.task, []
    chosen_by = _count(features, material, images.train, images.chosen_by, patches)
    tested = _count(features, material, images.test, images.tested, patches)
    for layer in patches:
        found = [np.nan_to_num(task.summarize(counts)[task.main], nan=-1.0) for counts in chosen_by[layer]]
        best = int(np.argmax(found))
        counts = tested[layer][best]
        lines.append(LayerScores(layer, best, float(found[best]), counts, task.summarize(counts)))
    return lines


def _count(
    features: PatchFeatures,
    material: DenseMaterial,
    masks: Any,
    records: np.ndarray,
    patches: dict[str, Patches],
) -> dict[str, np.ndarray]:
    """-> {layer: (len(NEIGHBORS), K, K) counts}."""
    total: dict[str, Any] = dict.fromkeys(patches)
    for batch in features.stream(features.evaluation(masks, records)):
        for layer, training in patches.items():
            predicted = segment(batch.features[layer], training, features.size)
            counts = [material.task.count(classes, batch.mask) for classes in predicted]
            total[layer] = add_counts(total[layer], np.stack([np.asarray(x) for x in counts]))
    return total


def segment(features: jax.Array, training: Patches, size: tuple[int, int]) -> jax.Array:
    """Return (len(NEIGHBORS), B, H, W) classes of (B, h, w, D) features; size: (H, W)."""
    batch, rows, columns, width = features.shape
    queries = (features.reshape(-1, width) - training.mean) / training.scale
    parts = [
        _vote(queries[start : start + _QUERIES], training.features, training.labels)
        for start in range(0, len(queries), _QUERIES)
    ]
    cell = size[0] // rows, size[1] // columns
    grids = jnp.concatenate(parts, 1).reshape(len(NEIGHBORS), batch, rows, columns, *cell)
    return grids.transpose(0, 1, 2, 4, 3, 5).reshape(len(NEIGHBORS), batch, *size)


@jax.jit
def _vote(queries: jax.Array, keys: jax.Array, labels: jax.Array) -> jax.Array:
    """-> (len(NEIGHBORS), q, l) most frequent labels of the nearest of (n, D) keys with (n, l) labels."""
    queries = queries / jnp.linalg.norm(queries, axis=-1, keepdims=True).clip(1e-12)
    most = min(NEIGHBORS[-1], len(keys))
    similarity, index = jnp.full((len(queries), 0), -jnp.inf), jnp.zeros((len(queries), 0), jnp.int32)
    for start in range(0, len(keys), _KEYS):  # the nearest of each part, then of all
        part = keys[start : start + _KEYS]
        values, places = jax.lax.top_k(queries @ part.T, min(most, len(part)))
        similarity = jnp.concatenate([similarity, values], 1)
        index = jnp.concatenate([index, places + start], 1)
    order = jax.lax.top_k(similarity, most)[1]
    nearest = labels[jnp.take_along_axis(index, order, 1)]  # (q, k, l)
    return jnp.stack([mode(nearest[:, :k]) for k in NEIGHBORS])


def mode(labels: jax.Array) -> jax.Array:
    """Return (q, l), the most frequent labels of (q, k, l) over k, the lowest of equally frequent ones.

    IGNORE counts only where there is no other label.
    """

    def votes(best: tuple[jax.Array, jax.Array], candidate: jax.Array) -> tuple[tuple[Any, Any], None]:
        label, most = best
        number = jnp.where(candidate == IGNORE, 0, (labels == candidate[:, None]).sum(1))
        better = (number > most) | ((number == most) & (candidate < label))
        return (jnp.where(better, candidate, label), jnp.maximum(number, most)), None

    start = labels[:, 0], jnp.zeros(labels[:, 0].shape, jnp.int32) - 1
    return jax.lax.scan(votes, start, jnp.moveaxis(labels, 1, 0))[0][0]


def _usable(
    x: np.ndarray, labels: np.ndarray, images: int, most: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """-> features (n, D) and labels (n, l) of the patches of a batch, its share of `most`."""
    batch, rows, columns, width = x.shape
    cell = labels.shape[1] // rows, labels.shape[2] // columns
    cells = labels.reshape(batch, rows, cell[0], columns, cell[1]).transpose(0, 1, 3, 2, 4)
    cells = cells.reshape(batch * rows * columns, -1).astype(np.int16)
    labelled = (cells == IGNORE).mean(1) <= 0.5
    each = max(1, most // images)  # patches of an image
    if each < rows * columns:
        order = np.random.default_rng(seed).permuted(np.tile(np.arange(rows * columns), (batch, 1)), axis=1)
        keep = np.zeros((batch, rows * columns), bool)
        np.put_along_axis(keep, order[:, :each], True, 1)
        labelled &= keep.ravel()
    return x.reshape(-1, width)[labelled], cells[labelled]


def _standardize(x: np.ndarray, labels: np.ndarray) -> Patches:
    mean, scale = x.mean(0), x.std(0).clip(1e-6)
    z = (x - mean) / scale
    z /= np.linalg.norm(z, axis=1, keepdims=True).clip(1e-12)
    return Patches(*map(jnp.asarray, (z, labels, mean, scale)))
