"""Infer which backbone a set of arrays belongs to: its sizes, read from their shapes."""

import re
from collections.abc import Mapping
from typing import Any

from fastmim_jax.errors import FormatMismatch
from fastmim_jax.models.pyramid import STAGES
from fastmim_jax.models.zoo import ZOO, create_model

# Attributes that no array determines come from the model table, by default from this entry of a family.
DEFAULT_MODELS = {
    "vit": "vit_b16",
    "swin": "swin_b",
    "mixmim": "mixmim_b",
    "pvt_v2": "pvt_v2_b2",
    "cmt": "cmt_s",
    "convnext": "convnext_t",
}
SIZES = (
    "patch_size",
    "width",
    "widths",
    "depth",
    "depths",
    "attention",
)  # they identify an entry
HEAD_WIDTH = 64  # assumed of a ViT that is not in the table

Shapes = Mapping[str, tuple[int, ...]]  # {path without "encoder/": shape}


def infer_backbone(family: str, shapes: Shapes) -> tuple[dict[str, Any], bool]:
    """Infer the config section `model.backbone` or `method.backbone`.

    Args:
      family: a key of DEFAULT_MODELS.
      shapes: of the backbone's arrays.

    Returns:
      {"name": of the model table, and the attributes that differ from that entry}, and whether its number
      of heads is assumed: that of the table, or heads of HEAD_WIDTH channels.

    Raises:
      FormatMismatch: an array that every such backbone has is missing, or has another number of axes.
    """
    sizes = READERS[family](shapes)
    name, in_table = _nearest_model(family, sizes)
    model = create_model(name)
    backbone = {key: x for key, x in sizes.items() if getattr(model, key) != x}
    assumed = "heads" not in sizes and bool(model.stage_heads)
    if assumed and not in_table and family == "vit":
        backbone["heads"] = max(1, sizes["width"] // HEAD_WIDTH)
    return {"name": name, **backbone}, assumed


def has_grid(family: str, shapes: Shapes) -> bool:
    """Return whether a learned array has the grid of the image, whose sides its values do not tell."""
    biases = family == "vit" and any(path.endswith("bias_table") for path in shapes)
    return POSITIONS in shapes or family == "cmt" or biases


def infer_image_size(family: str, shapes: Shapes) -> tuple[int, int] | None:
    """Infer the (height, width) in pixels from size-dependent arrays; None if there are none.

    Raises:
      FormatMismatch: as `infer_backbone`.
    """
    table = shape_of(shapes, POSITIONS, 3) if POSITIONS in shapes else None
    if family == "vit":
        patch = shape_of(shapes, "patch_embed/kernel", 4)[0]
        biases = [path for path in shapes if path.endswith("bias_table")]
        if table:
            return patch * table[0], patch * table[1]
        if not biases:
            return None
        rows, columns, _ = shape_of(shapes, biases[0], 3)
        return patch * (rows + 1) // 2, patch * (columns + 1) // 2
    if family == "cmt":
        _, rows, columns, *_ = shape_of(shapes, "stages_0/relative_position", 5)
        return 4 * rows, 4 * columns
    if family == "mixmim" and table:
        return 4 * table[0], 4 * table[1]
    if family in ("swin", "mixmim"):
        rows, columns, _ = shape_of(shapes, _bias_table(STAGES - 1), 3)
        return 32 * (rows + 1) // 2, 32 * (columns + 1) // 2
    return None


def shape_of(shapes: Shapes, path: str, *ranks: int) -> tuple[int, ...]:
    """Return the shape of an array, whose number of axes must be one of `ranks`.

    Raises:
      FormatMismatch: it is missing, empty or has another number of axes.
    """
    shape = shapes.get(path)
    if shape is None:
        seen = "is missing"
    elif len(shape) not in ranks or 0 in shape:
        seen = f"has the shape {shape}"
    else:
        return shape
    axes = " or ".join(map(str, ranks))
    raise FormatMismatch(
        f"'{path}' {seen}, expected an array of {axes} axes: the file is damaged, or needs --format=NAME"
    )


POSITIONS = "position/pos_embed"
SHARED_BIASES = "relative_position/relative_position_bias_table"


def _nearest_model(family, sizes):
    """-> (name of the entry of the model table with these sizes, True); or the family's default, False."""
    constructor = ZOO[DEFAULT_MODELS[family]][0]
    for name, (other, _) in ZOO.items():
        if other is constructor:
            model = create_model(name)
            if all(getattr(model, key) == sizes[key] for key in SIZES if key in sizes):
                return name, True
    return DEFAULT_MODELS[family], False


def _depths(shapes):
    """Number of blocks in each stage."""
    depths = [0] * STAGES
    for path in shapes:
        match = re.match(rf"stages_([0-{STAGES - 1}])/blocks/(\d+)/", path)
        if match:
            depths[int(match[1])] = max(depths[int(match[1])], 1 + int(match[2]))
    if not all(depths):
        raise FormatMismatch(
            f"stage {1 + depths.index(0)} has no blocks: the file is damaged, or needs --format=NAME"
        )
    return tuple(depths)


def _vit(shapes):
    patch, _, _, width = shape_of(shapes, "patch_embed/kernel", 4)
    mlp_ratio = _ratio(shapes, "blocks/0/mlp/fc1/kernel")
    blocks = [int(match[1]) for path in shapes if (match := re.match(r"blocks/(\d+)/", path))]
    own = "blocks/0/attn/relative_position/"
    relative = "shared" if SHARED_BIASES in shapes else "none"
    relative = "own" if any(path.startswith(own) for path in shapes) else relative
    sizes = dict(
        patch_size=patch,
        width=width,
        depth=1 + max(blocks),
        mlp_ratio=mlp_ratio,
        positions="learned" if POSITIONS in shapes else "none",
        relative_positions=relative,
        class_token="cls_token" in shapes or "position/pos_embed_cls" in shapes,
    )
    if "cls_token" in shapes and (count := shape_of(shapes, "cls_token", 3)[1]) > 1:
        sizes["class_tokens"] = count
    if "blocks/0/scale1/gamma" in shapes:
        sizes["layer_scale"] = 0.1  # only the initial value; it has no effect on loaded arrays
    tables = [path for path in (SHARED_BIASES, f"blocks/0/attn/{SHARED_BIASES}") if path in shapes]
    return {**sizes, "heads": shape_of(shapes, tables[0], 3)[-1]} if tables else sizes


def _bias_table(stage):
    return f"stages_{stage}/blocks/0/attn/relative_position_bias_table"


def _windowed(shapes):
    tables = [shape_of(shapes, _bias_table(stage), 3) for stage in range(STAGES)]
    sizes = dict(
        width=shape_of(shapes, "stem/patch/kernel", 2, 4)[-1],
        depths=_depths(shapes),
        heads=tuple(table[-1] for table in tables),
        mlp_ratio=_ratio(shapes, "stages_0/blocks/0/mlp/fc1/kernel"),
        positions="learned" if POSITIONS in shapes else "none",
    )
    windows = [((rows + 1) // 2, (columns + 1) // 2) for rows, columns, _ in tables]
    if any(rows != columns for rows, columns in windows):  # chosen by an image that is not square
        return sizes
    return {**sizes, "windows": tuple(rows for rows, _ in windows)}


def _swin(shapes):
    """Sizes with one window for all stages: the last stage may be smaller than the window."""
    sizes = _windowed(shapes)
    first, *_ = windows = sizes.pop("windows", (None,))
    if first is None:
        rows, columns, _ = shape_of(shapes, _bias_table(0), 3)
        return {**sizes, "window": (rows + 1) // 2} if rows == columns else sizes
    return {**sizes, "window": max(windows)}


def _pvt_v2(shapes):
    pooled = shape_of(shapes, "stages_0/blocks/0/attn/sr/kernel", 4)[0] == 1
    ratios = [_ratio(shapes, f"stages_{stage}/blocks/0/mlp/fc1/kernel") for stage in range(STAGES)]
    return dict(
        widths=_stage_widths(shapes, "stem/patch/kernel"),
        depths=_depths(shapes),
        mlp_ratios=tuple(ratios),
        attention="pooled" if pooled else "reduced",
    )


def _cmt(shapes):
    heads = [shape_of(shapes, f"stages_{stage}/relative_position", 5)[0] for stage in range(STAGES)]
    return dict(
        stem_width=shape_of(shapes, "stem/conv1/kernel", 4)[-1],
        widths=_stage_widths(shapes, "stem/halving/patch/kernel"),
        depths=_depths(shapes),
        heads=tuple(heads),
        mlp_ratio=_ratio(shapes, "stages_0/blocks/0/mlp/fc1/kernel"),
    )


def _convnext(shapes):
    return dict(widths=_stage_widths(shapes, "stem/patch/kernel"), depths=_depths(shapes))


def _stage_widths(shapes, first):
    kernels = (first, *(f"downsamples_{stage}/patch/kernel" for stage in range(STAGES - 1)))
    return tuple(shape_of(shapes, path, 2, 4)[-1] for path in kernels)


def _ratio(shapes, path):
    """Infer the ratio of an MLP's widths from its first kernel.

    The inner width is int(ratio * width), which determines the ratio of a CMT to two digits only.
    """
    width, inner = shape_of(shapes, path, 2, 4)[-2:]
    ratio = inner / width
    rounded = round(ratio, 2)
    return rounded if int(width * rounded) == inner else ratio


READERS = {
    "vit": _vit,
    "swin": _swin,
    "mixmim": _windowed,
    "pvt_v2": _pvt_v2,
    "cmt": _cmt,
    "convnext": _convnext,
}
