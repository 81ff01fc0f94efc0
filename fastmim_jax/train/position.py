"""The JSON dict beside the arrays of a checkpoint: position in the data, config and others."""

from pathlib import Path
from types import NoneType
from typing import Any

from fastmim_jax.errors import UserError

_TYPES: dict[str, Any] = {
    "records": int,
    "stage": int,
    "first_hook": (int, NoneType),
    "config": dict,
    "history": list,
    "top1": (int, float),
    "classes": list,
}


def check_position(position: Any, checkpoint: Path) -> dict[str, Any]:
    """Return the JSON dict of a checkpoint, if its values have the types that they are written with.

    Raises:
      UserError: they have not.
    """
    found = position if isinstance(position, dict) else {}
    wrong = [key for key, kind in _TYPES.items() if key in found and not isinstance(found[key], kind)]
    if wrong or found is not position:
        seen = f"{wrong[0]} is {str(found[wrong[0]])[:40]!r}" if wrong else "it is no JSON object"
        raise UserError(
            f"the position in checkpoint {checkpoint} is damaged ({seen}): delete the checkpoint"
        )
    return found
