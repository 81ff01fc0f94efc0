"""The config of a model, told by the shapes of its arrays."""

import ast

from fastmim_jax.config import finetune_config, pretrain_config
from fastmim_jax.errors import UserError
from fastmim_jax.export.infer_backbone import image_side, infer_backbone
from fastmim_jax.models.zoo import create_model

SIDES = {"fastmim": 128, "simmim": 192}  # of images, where no array tells; else USUAL_SIDE
USUAL_SIDE = 224
FIXED = {"fastmim": ("vit",), "mae": ("vit",), "mixmim": ("mixmim",), "classifier": ("mixmim",)}
POSITIONS = "position/pos_embed"
# The published mim_vit_base pre-trains this ViT-B with 6 heads (mim_vit_pretrain.py), not with 12.
SIX_HEADED = {"name": "vit_b16", "positions": "fixed"}
# Of pre-training, where it differs from base()'s and no array tells it: as published.
RECIPES = {
    "fastmim": {},
    "mae": {"target": "pixel"},
    "mixmim": {"target": "pixel", "mask_ratio": 0.5},
    "simmim": {"target": "pixel", "mask_ratio": 0.6, "normalize_target": False},
}
SMALLEST_BLOCK = {"fastmim": 16, "simmim": 32}  # pixels; a block is no smaller than a token
HOG_BINS, HOG_CELL = 9, 8


def infer_config(known, shapes, fixed, settings=None):
    """The config of a model whose arrays have these shapes.

    Args:
      known: rules.Format that they came in.
      shapes: {our path: shape}.
      fixed: {path: shape} of tables that are sine-cosine ones and no longer among the shapes.
      settings: as of `inward.from_torch`.

    Returns:
      config, names of the classes (() without a head), and sentences on what was assumed.

    Raises:
      UserError: the arrays are not of such a model.
    """
    settings = settings or {}
    inside = {path.removeprefix("encoder/"): x for path, x in shapes.items() if path.startswith("encoder/")}
    backbone, notes = _backbone(known, inside, fixed, settings.get("backbone", {}))
    tables = {path.removeprefix("encoder/"): x for path, x in fixed.items()}
    side = image_side(known.family, {**inside, **tables})
    size = tuple(settings.get("image_size") or (side or SIDES.get(known.kind, USUAL_SIDE),) * 2)
    if side is None and "image_size" not in settings:
        notes.append(
            f"the size of the images is not told by the arrays: {size[0]} x {size[1]} assumed "
            f'(--set="data.image_size={size}")'
        )
    if known.kind == "classifier":
        config, classes = finetune_config(), _classes(shapes, settings)
        section = config.model
        section.pooling = (settings.get("pooling") or _pooling(known.family, shapes)) if classes else None
        section.pooling_width = shapes.get("pooling/fc/bias", (None,))[0]
        section.backbone.drop_path = 0.0
    else:
        config, classes = pretrain_config(), ()
        section = config.method
        _set_method(section, known.kind, create_model(**backbone), shapes, settings)
    section.dtype = "float32"
    section.backbone.update(backbone)
    config.data.image_size, config.data.channels = size, _channels(inside)
    return config, classes, notes


def override(config, settings):
    """Sets keys of a config, in place.

    settings: texts such as "method.backbone.heads=6".

    Raises:
      UserError: no such key, or a value of another type.
    """
    config.lock()
    for setting in settings:
        key, _, text = setting.partition("=")
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            value = text
        try:
            config.update_from_flattened_dict({key.removeprefix("config."): value})
        except (KeyError, AttributeError, TypeError, ValueError) as error:
            raise UserError(
                f"--set={setting} does not fit the config ({str(error).splitlines()[0]}): expected a key "
                "of fastmim_jax/config.py and a value, such as --set=method.backbone.heads=6"
            ) from error


def _backbone(known, inside, fixed, told):
    """-> the section of the backbone, and what was assumed in it."""
    backbone, guessed = infer_backbone(known.family, inside)
    usual = known.family in FIXED.get(known.kind, ()) and POSITIONS not in inside
    if f"encoder/{POSITIONS}" in fixed or usual:
        backbone["positions"] = "fixed"
    as_published = known.name == "fastmim_vit" and backbone == SIX_HEADED
    if as_published:
        backbone["heads"] = 6
    backbone.update(told)
    notes = []
    if (guessed or as_published) and "heads" not in told:
        heads = create_model(**backbone).heads
        section = "model" if known.kind == "classifier" else "method"
        notes.append(
            f"heads are not told by the arrays: {heads} assumed{', as published' * as_published} "
            f"(--set={section}.backbone.heads={heads})"
        )
    return backbone, notes


def _classes(shapes, settings):
    if "head/kernel" not in shapes:
        return ()
    count = shapes["head/kernel"][-1]
    names = tuple(settings.get("classes") or map(str, range(count)))
    if len(names) != count:
        raise UserError(f"the head has {count} classes, but {len(names)} names were given for them")
    return names


def _pooling(family, shapes):
    own = any(path.startswith("pooling/norm/") for path in shapes)
    if family == "cmt":
        return "wide_pool"
    after = "pool_norm" if family in ("vit", "convnext") else "norm_pool"
    return after if own else {"vit": "cls"}.get(family, "pool")


def _channels(inside):
    kernels = ("patch_embed/kernel", "stem/patch/kernel", "stem/conv1/kernel")
    return next((inside[path][-2] for path in kernels if path in inside), 3)


def _set_method(section, kind, encoder, shapes, settings):
    """Sets what `config.method` says of anything but the backbone."""
    section.name = kind
    section.update(RECIPES[kind])
    section.block_size = max(encoder.stride, SMALLEST_BLOCK.get(kind, 0))
    for key in ("mask_ratio", "normalize_target", "block_size"):
        if key in settings:
            section[key] = settings[key]
    if kind == "simmim":
        return
    _set_decoder(section.decoder, shapes)
    section.decoder.epsilon = 1e-6 if hasattr(encoder, "patch_size") else 1e-5
    section.decoder.update(settings.get("decoder", {}))
    cells = (encoder.stride // HOG_CELL) ** 2
    if kind == "fastmim" and shapes["decoder/pred/kernel"][-1] % (HOG_BINS * cells):
        section.target = "pixel"
    stages = {path.split("/")[2] for path in shapes if path.startswith("reconstruct/fill/")}
    if stages:
        section.partial.update(throw_ratio=0.5, stages=len(stages))


def _set_decoder(decoder, shapes):
    indices = {int(path.split("/")[2]) for path in shapes if path.startswith("decoder/blocks/")}
    decoder.depth = len(indices)
    decoder.width = shapes["decoder/pred/kernel"][0]
    if indices:
        width, hidden = shapes["decoder/blocks/0/mlp/fc1/kernel"]
        decoder.mlp_ratio = hidden / width
