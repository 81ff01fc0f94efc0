"""Steps that the reference models of several libraries share: load a state dict, convert images."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from fastmim_jax.errors import UserError
from fastmim_jax.export.extras import import_torch
from fastmim_jax.export.formats.rules import State

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

MAX_LISTED = 5  # names in a message


def to_pixels(images: np.ndarray) -> "Tensor":
    """(B, H, W, C) -> a tensor (B, C, H, W)."""
    return import_torch().from_numpy(np.ascontiguousarray(np.moveaxis(images, -1, 1)))


def load_state(model: "Module", state: State, name: str) -> None:
    """Load a complete state dict into a model. name: of the model, for the message.

    Raises:
      UserError: the names or shapes are not the model's.
    """
    torch = import_torch()
    expected = {key: tuple(x.shape) for key, x in model.state_dict().items()}
    given = {key: tuple(np.shape(x)) for key, x in state.items()}
    reshaped = [x for x in expected.keys() & given.keys() if expected[x] != given[x]]
    check_no_differences(name, expected.keys() - given.keys(), given.keys() - expected.keys(), reshaped)
    model.load_state_dict({key: torch.tensor(np.asarray(x)) for key, x in state.items()})


def check_no_differences(
    name: str, missing: Iterable[str], unexpected: Iterable[str], reshaped: Iterable[str]
) -> None:
    """Refuse a state dict with missing or unexpected names, or with arrays of another shape.

    Raises:
      UserError: there is any.
    """
    differences = {"missing": missing, "unexpected": unexpected, "of another shape": reshaped}
    listed = [
        f"{', '.join(sorted(names)[:MAX_LISTED])} {problem}"
        for problem, names in differences.items()
        if names
    ]
    if listed:
        raise UserError(
            f"this is not a state dict of {name}: {'; '.join(listed)}; expected exactly the arrays of the "
            "described model"
        )
