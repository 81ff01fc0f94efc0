"""timm (1.0): how it names what our backbones have, and its models of them.

Norms of its ViT, BEiT and PVT v2 have an epsilon of 1e-6, but for 1e-5 after PVT v2's patches and of its
keys, and those of its Swin 1e-5; no argument of theirs changes it. Ours have the same unless a config says
otherwise: ten times or a tenth of it moves outputs by some 1e-5 of the largest.
"""

import math

import numpy as np

from fastmim_jax.errors import UserError
from fastmim_jax.export.extras import import_timm, import_torch
from fastmim_jax.export.formats.official import keys as official
from fastmim_jax.export.formats.official.convnets import CONVNEXT
from fastmim_jax.export.formats.official.pvt_v2 import PVT_V2
from fastmim_jax.export.formats.rules import LINEAR, NORM, POSITIONS, Format, Rule, Transform, array
from fastmim_jax.export.formats.timm.describe import describe, format_of

__all__ = ["FORMATS", "build", "command", "describe", "format_of", "look"]


def _with_cls(x):
    """(1, N, D) -> (1, 1 + N, D): zeros for cls where there are only the patches', as in DeiT III."""
    alone = math.isqrt(x.shape[1]) ** 2 == x.shape[1]
    return np.pad(x, ((0, 0), (int(alone), 0), (0, 0)))


LEARNED = Transform(lambda x: POSITIONS.to_ours(_with_cls(x)), POSITIONS.to_theirs)
# A linear layer, or a 1 x 1 convolution in the small ConvNeXts: (out, in) or (out, in, 1, 1) -> (in, out).
POINTWISE = ((".weight", "/kernel", Transform(lambda x: x.reshape(x.shape[:2]).T, np.transpose)), LINEAR[1])
FC_NORM = Rule("fc_norm", "pooling/norm", NORM)

VIT = (
    *(rule for rule in official.VIT if rule != official.VIT_POSITIONS),
    Rule("pos_embed", "encoder/position", (("", ("/pos_embed", "/pos_embed_cls"), LEARNED),)),
    *(Rule(f"blocks.{{}}.ls{i}.gamma", f"encoder/blocks/{{}}/scale{i}/gamma", array()) for i in (1, 2)),
)


def _merged_first(rule):
    """Rules of the official Swin as timm's, which merges cells at the start of a stage, not at an end."""
    if not rule.theirs.startswith("layers.{}.downsample"):
        return (rule,)
    return tuple(
        Rule(rule.theirs.format(stage), rule.ours.format(stage - 1), rule.arrays) for stage in (1, 2, 3)
    )


ENTRANCES = {
    "stem.": "patch_embed.",
    **{f"downsamples_{stage - 1}.": f"stages.{stage}.downsample." for stage in (1, 2, 3)},
    ".patch": ".proj",
    "stages_": "stages.",
}


def _by_stage(rule):
    """A rule of PVT v2 with timm's name, which is ours but for what leads into a stage."""
    name = rule.ours.removeprefix("encoder/").replace("/", ".")
    for ours, theirs in ENTRANCES.items():
        name = name.replace(ours, theirs)
    return rule._replace(theirs=name)


def _headed(rule):
    """Rules of the ConvNeXt that FastMIM pre-trained, with the two norms that timm's can end with."""
    if rule.ours == "encoder/norm":
        return Rule("norm_pre", "encoder/norm", NORM), Rule("head.norm", "pooling/norm", NORM)
    return (rule._replace(arrays=POINTWISE) if rule.arrays == LINEAR else rule,)


SWIN = (*(new for rule in official.SWIN for new in _merged_first(rule)), Rule("head.fc", "head", LINEAR))
CONVNEXT_TIMM = (*(new for rule in CONVNEXT for new in _headed(rule)), Rule("head.fc", "head", LINEAR))


def _format(name, family, table):
    return Format(f"timm_{name}", "timm", family, "classifier", table)


FORMATS = (
    _format("vit", "vit", official.classifying(VIT, FC_NORM)),
    # A ViT with relative positions; SimMIM's code took its names from there.
    _format("beit", "vit", official.classifying(official.SIMMIM_VIT, FC_NORM)),
    _format("swin", "swin", SWIN),
    _format("pvt_v2", "pvt_v2", official.classifying(tuple(_by_stage(rule) for rule in PVT_V2))),
    _format("convnext", "convnext", CONVNEXT_TIMM),
)


def build(description, state=None):
    """The timm model of a description, in eval mode.

    Args:
      description: as of `describe`.
      state: {name: array} of all that it has and nothing else, or None.

    Raises:
      UserError: timm is not installed, or names or shapes of the state are others than the model's.
    """
    arguments = _arguments(description)
    model = import_timm().create_model(description["architecture"], **arguments).eval()
    if state is not None:
        _load(model, state, description["architecture"])
    return model


def _arguments(description):
    return {"num_classes": description["num_classes"], **description["model_args"]}


def _load(model, state, name):
    torch = import_torch()
    shapes = {key: tuple(x.shape) for key, x in model.state_dict().items()}
    found = {key: tuple(np.shape(x)) for key, x in state.items()}
    others = {
        "missing": sorted(shapes.keys() - found.keys()),
        "unexpected": sorted(found.keys() - shapes.keys()),
        "of another shape": sorted(x for x in shapes.keys() & found.keys() if shapes[x] != found[x]),
    }
    told = [f"{', '.join(keys[:5])} {kind}" for kind, keys in others.items() if keys]
    if told:
        raise UserError(
            f"this is not a state of timm's {name}: {'; '.join(told)}; expected all of the model that "
            "`describe` tells and nothing else"
        )
    model.load_state_dict({key: torch.tensor(np.asarray(x)) for key, x in state.items()})


def look(model, images):
    """What a timm model makes of images, as `outputs` of our backbones and a classifier give it.

    Args:
      model: of `build`.
      images: (B, H, W, C) float32, normalised.

    Returns:
      {"block 1" ... of a ViT or "stage 1" ... of a pyramid: (B, h, w, D), the last after the model's last
      norm where that comes before pooling; "cls": (B, D) of a ViT; "logits": (B, classes) with a head}.
    """
    torch = import_torch()
    with torch.inference_mode():
        pixels = torch.from_numpy(np.ascontiguousarray(np.moveaxis(images, -1, 1)))
        last, grids = model.forward_intermediates(pixels)
        logits = {"logits": model.forward_head(last)} if model.num_classes else {}
    grids = [np.moveaxis(grid.numpy(), 1, -1) for grid in grids]
    last = last.numpy()
    if last.ndim == 3:
        kind, prefix, grids[-1] = "block", {"cls": last[:, 0]}, last[:, 1:].reshape(grids[-1].shape)
    else:
        channels_last = getattr(model, "output_fmt", "NCHW") == "NHWC"
        kind, prefix, grids[-1] = "stage", {}, last if channels_last else np.moveaxis(last, 1, -1)
    found = {f"{kind} {number}": grid for number, grid in enumerate(grids, 1)}
    return {**found, **prefix, **{name: x.numpy() for name, x in logits.items()}}


def command(description, checkpoint):
    """The line of Python that opens a checkpoint, a path of a .safetensors or .pth file, with timm."""
    arguments = {**_arguments(description), "checkpoint_path": str(checkpoint)}
    given = ", ".join(f"{name}={x!r}" for name, x in arguments.items())
    return f"timm.create_model({description['architecture']!r}, {given})"
