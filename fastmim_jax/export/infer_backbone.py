"""Which backbone a set of arrays is of: its sizes, read off their shapes."""

import re

from fastmim_jax.errors import UserError
from fastmim_jax.models.pyramid import STAGES
from fastmim_jax.models.zoo import ZOO, create_model

# What the arrays of a family do not tell is as in the table of models, usually of the one of this name.
USUAL = {
    "vit": "vit_b16",
    "swin": "swin_b",
    "mixmim": "mixmim_b",
    "pvt_v2": "pvt_v2_b2",
    "cmt": "cmt_s",
    "convnext": "convnext_t",
}
SIZES = ("patch_size", "width", "widths", "depth", "depths", "attention")  # by which models are told apart
HEAD_WIDTH = 64  # of a ViT that is not in the table


def family_of(encoder):
    """The family of a backbone module, a key of USUAL."""
    return next(family for family, name in USUAL.items() if ZOO[name][0] is type(encoder))


def infer_backbone(family, shapes):
    """What a section `config.model.backbone` says of a backbone.

    Args:
      family: a key of USUAL.
      shapes: {path: shape} of its arrays, paths without "encoder/".

    Returns:
      {"name": of the table of models, and what differs from that}, and whether heads are a guess.

    Raises:
      UserError: the arrays are not of such a backbone.
    """
    try:
        sizes = READERS[family](shapes)
    except (KeyError, IndexError, ValueError) as error:
        raise UserError(f"the arrays make no {family} ({error} is missing): give --format=NAME") from error
    name, known = _nearest(family, sizes)
    given = {key: x for key, x in sizes.items() if getattr(create_model(name), key) != x}
    guessed = "heads" not in sizes and not known and "heads" in create_model(name).__dataclass_fields__
    if guessed and family == "vit":
        given["heads"] = max(1, sizes["width"] // HEAD_WIDTH)
    return {"name": name, **given}, guessed


def _nearest(family, sizes):
    """-> (name of the table whose sizes are these, True); or the family's usual one, False."""
    constructor = ZOO[USUAL[family]][0]
    for name, (other, _) in ZOO.items():
        if other is constructor:
            model = create_model(name)
            sized = [key for key in SIZES if key in sizes]
            if all(getattr(model, key) == sizes[key] for key in sized):
                return name, True
    return USUAL[family], False


def depths(shapes):
    """Number of blocks in each of four stages.

    Raises:
      ValueError: a stage has none.
    """
    found = [0] * STAGES
    for path in shapes:
        match = re.match(r"stages_(\d)/blocks/(\d+)/", path)
        if match:
            found[int(match[1])] = max(found[int(match[1])], 1 + int(match[2]))
    if not all(found):
        raise ValueError(f"a block of stage {1 + found.index(0)}")
    return tuple(found)


def _vit(shapes):
    patch, _, _, width = shapes["patch_embed/kernel"]
    blocks = [int(match[1]) for path in shapes if (match := re.match(r"blocks/(\d+)/", path))]
    shared, own = "relative_position/relative_position_bias_table", "blocks/0/attn/relative_position/"
    relative = "shared" if shared in shapes else "none"
    relative = "own" if any(path.startswith(own) for path in shapes) else relative
    sizes = dict(
        patch_size=patch,
        width=width,
        depth=1 + max(blocks),
        mlp_ratio=_ratio(shapes["blocks/0/mlp/fc1/kernel"]),
        positions="learned" if "position/pos_embed" in shapes else "none",
        relative_positions=relative,
    )
    table = shapes.get(shared) or shapes.get(own + "relative_position_bias_table")
    if "blocks/0/scale1/gamma" in shapes:
        sizes["layer_scale"] = 0.1  # what they began at changes nothing now
    return {**sizes, "heads": table[-1]} if table else sizes


def _windowed(shapes):
    tables = [
        shapes[f"stages_{stage}/blocks/0/attn/relative_position_bias_table"] for stage in range(STAGES)
    ]
    return dict(
        width=shapes["stem/patch/kernel"][-1],
        depths=depths(shapes),
        heads=tuple(table[-1] for table in tables),
        mlp_ratio=_ratio(shapes["stages_0/blocks/0/mlp/fc1/kernel"]),
        positions="learned" if "position/pos_embed" in shapes else "none",
        windows=tuple((table[0] + 1) // 2 for table in tables),
    )


def _swin(shapes):
    """As of any windows; there is one side for all stages, which the last may be too small for."""
    sizes = _windowed(shapes)
    window = max(sizes.pop("windows"))
    return {**sizes, "window": window}


def _pvt(shapes):
    pooled = shapes["stages_0/blocks/0/attn/sr/kernel"][0] == 1
    return dict(
        widths=_stage_widths(shapes),
        depths=depths(shapes),
        mlp_ratios=_stage_ratios(shapes),
        attention="pooled" if pooled else "reduced",
    )


def _cmt(shapes):
    return dict(
        stem_width=shapes["stem/conv1/kernel"][-1],
        widths=(shapes["stem/halving/patch/kernel"][-1], *_halved_widths(shapes)),
        depths=depths(shapes),
        heads=tuple(shapes[f"stages_{stage}/relative_position"][0] for stage in range(STAGES)),
        mlp_ratio=_ratio(shapes["stages_0/blocks/0/mlp/fc1/kernel"]),
    )


def _convnext(shapes):
    return dict(widths=_stage_widths(shapes), depths=depths(shapes))


def _stage_widths(shapes):
    return (shapes["stem/patch/kernel"][-1], *_halved_widths(shapes))


def _halved_widths(shapes):
    return tuple(shapes[f"downsamples_{stage}/patch/kernel"][-1] for stage in range(STAGES - 1))


def _stage_ratios(shapes):
    kernels = (shapes[f"stages_{stage}/blocks/0/mlp/fc1/kernel"] for stage in range(STAGES))
    return tuple(_ratio(kernel) for kernel in kernels)


def _ratio(kernel):
    """Of the width inside an MLP to that outside, from the shape of its first kernel.

    An MLP is int(ratio * width) wide, so that the ratio of CMT's is known to two digits only.
    """
    width, hidden = kernel[-2:]
    ratio = hidden / width
    rounded = round(ratio, 2)
    return rounded if int(width * rounded) == hidden else ratio


READERS = {
    "vit": _vit,
    "swin": _swin,
    "mixmim": _windowed,
    "pvt_v2": _pvt,
    "cmt": _cmt,
    "convnext": _convnext,
}


def image_side(family, shapes):
    """Side in pixels of the images that size-dependent arrays were made for, or None if nothing tells.

    shapes: as of `infer_backbone`.
    """
    if family == "vit":
        patch, table = shapes["patch_embed/kernel"][0], shapes.get("position/pos_embed")
        of_pairs = next((shape for path, shape in shapes.items() if path.endswith("bias_table")), None)
        return patch * table[0] if table else of_pairs and patch * (of_pairs[0] + 1) // 2
    if family == "cmt":
        return 4 * shapes["stages_0/relative_position"][1]
    if family == "mixmim" and "position/pos_embed" in shapes:
        return 4 * shapes["position/pos_embed"][0]
    if family in ("swin", "mixmim"):
        return 32 * (shapes["stages_3/blocks/0/attn/relative_position_bias_table"][0] + 1) // 2
    return None
