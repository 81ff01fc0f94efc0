"""Resize the state of a run for its next stage, with images of another size (FastMIM-P)."""

from collections import Counter

import jax

from fastmim_jax.models.resample import apply_matrices, resampling_matrices, second_moment_matrices
from fastmim_jax.train.state import TrainState


def resize_state(state: TrainState, abstract: TrainState) -> tuple[TrainState, dict[str, int]]:
    """Return the state at the end of a stage in the shapes of the next stage.

    Tables that depend on the image size are resampled, and the optimizer's moments with them by the same
    weights; everything else stays the same to the bit.

    Args:
      state: the state to resize.
      abstract: the state of the next stage, ShapeDtypeStructs with shardings.

    Returns:
      The new state, and {name: number of parameters of this name that were resampled}.

    Raises:
      ValueError: no rule resamples a parameter of another shape.
    """
    leaves, structure = jax.tree_util.tree_flatten_with_path(state)
    targets = jax.tree.leaves(abstract)
    changed = [i for i, (_, leaf) in enumerate(leaves) if leaf.shape != targets[i].shape]
    matrices = {i: _matrices(leaves[i][0], leaves[i][1].shape, targets[i].shape) for i in changed}

    def resampled(tables):
        return {i: apply_matrices(matrices[i], table) for i, table in tables.items()}

    shardings = {i: targets[i].sharding for i in changed}
    tables = jax.jit(resampled, out_shardings=shardings)({i: leaves[i][1] for i in changed})
    state = jax.tree.unflatten(structure, [tables.get(i, leaf) for i, (_, leaf) in enumerate(leaves)])
    names = [path[-1].key for path, _ in (leaves[i] for i in changed) if path[0].name == "params"]
    return state, dict(Counter(names))


def _matrices(path, shape, target):
    """Return the matrices that resample a leaf of the state from one shape to another."""
    matrices = resampling_matrices(path[-1].key, shape, target)
    is_second_moment = any(getattr(key, "name", None) == "nu" for key in path)
    return second_moment_matrices(matrices) if is_second_moment else matrices
