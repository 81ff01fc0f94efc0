"""From one stage of a run to the next, whose images have another size (FastMIM-P)."""

from collections import Counter

import jax

from fastmim_jax.models.resample import apply_matrices, resampling_matrices, second_moment_matrices


def resize_state(state, abstract):
    """The state at the end of a stage in the shapes of the next.

    Tables that depend on the size of the images are resampled, and the optimizer's moments with them by
    the same weights; everything else is kept to the bit.

    Args:
      state: TrainState.
      abstract: the TrainState of the next stage, ShapeDtypeStructs with shardings.

    Returns:
      The new state, and {name: how many parameters of this name were resampled}.

    Raises:
      ValueError: a parameter differs that no rule can resample.
    """
    leaves, structure = jax.tree_util.tree_flatten_with_path(state)
    goals = jax.tree.leaves(abstract)
    moving = [i for i, (_, leaf) in enumerate(leaves) if leaf.shape != goals[i].shape]
    maps = {i: _maps(leaves[i][0], leaves[i][1].shape, goals[i].shape) for i in moving}

    def resampled(tables):
        return {i: apply_matrices(maps[i], table) for i, table in tables.items()}

    shardings = {i: goals[i].sharding for i in moving}
    moved = jax.jit(resampled, out_shardings=shardings)({i: leaves[i][1] for i in moving})
    state = jax.tree.unflatten(structure, [moved.get(i, leaf) for i, (_, leaf) in enumerate(leaves)])
    names = [path[-1].key for path, _ in (leaves[i] for i in moving) if path[0].name == "params"]
    return state, dict(Counter(names))


def _maps(path, shape, goal):
    """The matrices that take a leaf of the state from one shape to another."""
    matrices = resampling_matrices(path[-1].key, shape, goal)
    is_second_moment = any(getattr(key, "name", None) == "nu" for key in path)
    return second_moment_matrices(matrices) if is_second_moment else matrices
