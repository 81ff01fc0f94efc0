"""The entries of objects whose classes are not read: a pickled model is a state dict with other names."""

from fastmim_jax.export.torch_file.arrays import StoredArray
from fastmim_jax.export.torch_file.unpickler import StandIn

MAX_MODULES, MAX_NAME = 20_000, 500  # modules may contain themselves


def attributes_of(value: StandIn) -> dict | None:
    """Return the entries of a dict-like object, the state dict of a model, else the attributes, if any."""
    if value.entries is not None:
        return value.entries
    if not isinstance(value.state, dict):
        return None
    return state_dict(value) if "_parameters" in value.state else value.state


def state_dict(model: StandIn) -> dict[str, StoredArray]:
    """Return {name: array} of a pickled `torch.nn.Module`, with the names of its state_dict()."""
    arrays: dict[str, StoredArray] = {}
    pending: list[tuple[str, object]] = [("", model)]
    visited = 0
    while pending and visited < MAX_MODULES:
        prefix, module = pending.pop()
        visited += 1
        parts = module.state if isinstance(module, StandIn) and isinstance(module.state, dict) else {}
        if len(prefix) > MAX_NAME:
            continue
        for kind in ("_parameters", "_buffers"):
            named = _dict(parts.get(kind))
            arrays |= {prefix + name: x for name, x in named.items() if isinstance(x, StoredArray)}
        children = _dict(parts.get("_modules"))
        pending += [(f"{prefix}{name}.", child) for name, child in reversed(children.items())]
    return arrays


def _dict(value: object) -> dict[str, object]:
    found = value if isinstance(value, dict) else {}
    return {name: x for name, x in found.items() if isinstance(name, str)}
