"""The models whose training steps are timed, and the ways to run the published ones."""

from typing import Any, NamedTuple

OURS, PUBLISHED = "ours", "published"
# Modes of the published step: as its authors run it, and with what PyTorch offers today.
PUBLISHED_MODES = {
    "fp16": "fp16 autocast, GradScaler, gradient norm, AdamW; waits for the loss in every step",
    "bf16": "bf16 autocast, fused AdamW",
    "fp16_compile": "as fp16, with torch.compile",
    "bf16_compile": "as bf16, with torch.compile",
}
EAGER = ("fp16", "bf16")

_TINY_VIT = {
    "data.image_size": (64, 64),
    "method.backbone.width": 32,
    "method.backbone.depth": 1,
    "method.backbone.heads": 2,
    "method.decoder.width": 32,
    "method.decoder.depth": 1,
    "method.decoder.heads": 1,
}
_TINY_PYRAMID = {
    "data.image_size": (64, 64),
    "method.backbone.width": 32,
    "method.backbone.depths": (1, 1, 1, 1),
    "method.backbone.heads": (1, 2, 4, 8),
    "method.decoder.width": 32,
    "method.decoder.depth": 1,
}
_TINY_MIXMIM = {**_TINY_PYRAMID, "method.groups": 2, "method.backbone.windows": (4, 4, 4, 2)}


class Case(NamedTuple):
    """A model and its batch.

    Attributes:
      title: for tables.
      config: FILE:VARIANT of `configs/`.
      pixels: side of the square images.
      batch: images in a step.
      repository: folder of the published code, or "" if there is none.
      memory: GB that our step and the published step need at most; together they must fit on the device.
      tiny: config keys of the tiny run.
      changes: config keys of the case.
    """

    title: str
    config: str
    pixels: int
    batch: int
    repository: str
    memory: tuple[int, int]
    tiny: dict[str, Any]
    changes: dict[str, Any] = {}


CASES = {  # in order of priority
    "fastmim_vit_b16": Case(
        "FastMIM ViT-B/16", "fastmim:vit_b16", 128, 1024, "FastMIM", (24, 29), _TINY_VIT
    ),
    "fastmim_swin_b": Case(
        "FastMIM Swin-B", "fastmim:swin_b", 128, 512, "FastMIM", (20, 30), _TINY_PYRAMID
    ),
    "mae_vit_b16": Case("MAE ViT-B/16", "mae:vit_b16", 224, 1024, "mae", (64, 56), _TINY_VIT),
    "mixmim_b": Case("MixMIM-B", "mixmim:base", 224, 128, "MixMIM", (30, 35), _TINY_MIXMIM),
    "simmim_vit_b16": Case("SimMIM ViT-B/16", "simmim:vit_b16", 224, 256, "SimMIM", (27, 31), _TINY_VIT),
    "pr_mim_mae_vit_b16": Case(
        "PR-MIM MAE ViT-B/16", "pr_mim:mae_vit_b16", 224, 1024, "", (40, 0), _TINY_VIT
    ),
    "fastmim_vit_b16_6_heads": Case(
        "FastMIM ViT-B/16, 6 heads", "fastmim:vit_b16_official", 128, 1024, "", (24, 0), _TINY_VIT
    ),
    "simmim_swin_b": Case("SimMIM Swin-B", "simmim:swin_b", 192, 256, "SimMIM", (30, 30), _TINY_PYRAMID),
}
# Our cases without a published model of their own are compared with the published step of another case.
COMPARED_WITH = {
    "pr_mim_mae_vit_b16": "mae_vit_b16",
    "fastmim_vit_b16_6_heads": "fastmim_vit_b16",
}
TINY_BATCH = 4


class Task(NamedTuple):
    """One subprocess: a side of a case.

    Attributes:
      name: of the case.
      side: OURS or PUBLISHED.
      modes: of PUBLISHED_MODES; of ours the name of the variant, "default" without one.
      changes: config keys of our step on top of the case's.
      environment: environment variables of the process.
    """

    name: str
    side: str
    modes: tuple[str, ...]
    changes: dict[str, str] = {}
    environment: dict[str, str] = {}

    @property
    def label(self):
        """Name of the task in progress lines and in the log."""
        return f"{self.name} {self.side} {'+'.join(self.modes)}"


def make_tasks(names, sides, modes, variants, common, merged=False):
    """Return the tasks in order of priority.

    Args:
      names: of the cases.
      sides: of (OURS, PUBLISHED).
      modes: of PUBLISHED_MODES.
      variants: [(case or "*", name of the variant, {config key or "env.NAME": value})].
      common: {config key or "env.NAME": value} of every step of ours.
      merged: whether one process runs all modes of a case.
    """
    ranked = []
    for rank, name in enumerate(CASES):
        if name not in names:
            continue
        if OURS in sides:
            entries = [("default", {})] + [
                (label, keys) for case, label, keys in variants if case in (name, "*")
            ]
            for index, (label, keys) in enumerate(entries):
                changes, environment = _split({**common, **keys})
                ranked.append((10 * rank + index / 10, Task(name, OURS, (label,), changes, environment)))
        if PUBLISHED in sides and CASES[name].repository:
            if merged:
                ranked.append((10 * rank + 2, Task(name, PUBLISHED, tuple(modes))))
                continue
            eager = tuple(mode for mode in EAGER if mode in modes)
            ranked += [(10 * rank + 2, Task(name, PUBLISHED, eager))] if eager else []
            if "bf16_compile" in modes:
                ranked.append((10 * rank + 5, Task(name, PUBLISHED, ("bf16_compile",))))
            if "fp16_compile" in modes:  # the slower of the two compiled steps: last
                ranked.append((1000 + rank, Task(name, PUBLISHED, ("fp16_compile",))))
    return [task for _, task in sorted(ranked, key=lambda entry: entry[0])]


def _split(keys):
    """Return the config keys and the environment variables of {key or "env.NAME": value}."""
    changes = {key: value for key, value in keys.items() if not key.startswith("env.")}
    environment = {key[4:]: value for key, value in keys.items() if key.startswith("env.")}
    return changes, environment


def parse_pairs(words):
    """Return {key: value} of ["key=value", ...].

    Raises:
      ValueError: a word without "=".
    """
    for word in words:
        if "=" not in word:
            raise ValueError(f"'{word}' is not KEY=VALUE")
    return dict(word.split("=", 1) for word in words)


def parse_variant(words):
    """Return (case or "*", name, {key: value}) of ["CASE:NAME", "key=value", ...].

    Raises:
      ValueError: no such form or no such case.
    """
    case, _, name = words[0].partition(":")
    if not name or (case != "*" and case not in CASES):
        raise ValueError(f"'{words[0]}' is not CASE:NAME; cases: *, {', '.join(CASES)}")
    return case, name, parse_pairs(words[1:])
