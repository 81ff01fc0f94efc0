"""torchvision (0.28): the names of its ViT, Swin and ConvNeXt, and those models themselves.

Its ViT classifies by the cls token and takes square images of one size; its Swin has one window for all
stages; its ConvNeXt has a norm after the mean over the cells, where others have it before.
"""

from functools import partial

import numpy as np

from fastmim_jax.errors import UserError
from fastmim_jax.export.extras import import_torch, import_torchvision
from fastmim_jax.export.formats.buffers import relative_indices
from fastmim_jax.export.formats.rules import (
    CONV,
    LINEAR,
    NORM,
    POSITIONS,
    SAME,
    SQUARE,
    TRANSPOSE,
    Format,
    Rule,
    Transform,
    array,
)
from fastmim_jax.export.formats.windows import one_window
from fastmim_jax.export.infer_backbone import family_of
from fastmim_jax.models.pyramid import STAGES

# PyTorch's own attention: queries, keys and values are one array without a module around it.
IN_PROJECTION = (("_weight", "/kernel", TRANSPOSE), ("_bias", "/bias", SAME))
CHANNELS_FIRST = Transform(lambda x: x.reshape(-1), lambda x: x.reshape(-1, 1, 1))


def convnext(halving, stage, block):
    """The rules of a ConvNeXt without what follows its last stage.

    Args:
      halving, stage: the number of a stage, from 0 -> the name of its patch embedding, of its blocks.
      block: {part of a block: (our part, arrays)}.
    """
    rules = [Rule(f"{halving(0)}.0", "encoder/stem/patch", CONV)]
    rules += [Rule(f"{halving(0)}.1", "encoder/stem/norm", NORM)]
    for number in range(1, STAGES):
        ours = f"encoder/downsamples_{number - 1}"
        rules += [Rule(f"{halving(number)}.0", f"{ours}/norm", NORM)]
        rules += [Rule(f"{halving(number)}.1", f"{ours}/patch", CONV)]
    for number in range(STAGES):
        theirs, ours = f"{stage(number)}.{{}}", f"encoder/stages_{number}/blocks/{{}}"
        rules += [Rule(f"{theirs}.{part}", f"{ours}/{name}", kind) for part, (name, kind) in block.items()]
    return tuple(rules)


def _swin_stage(number):
    stage, ours = f"features.{2 * number + 1}.{{}}", f"encoder/stages_{number}/blocks/{{}}"
    table, halving = "relative_position_bias_table", f"features.{2 * number + 2}"
    parts = {
        "norm1": ("norm1", NORM),
        f"attn.{table}": (f"attn/{table}", array(SQUARE)),
        "attn.qkv": ("attn/qkv", LINEAR),
        "attn.proj": ("attn/proj", LINEAR),
        "norm2": ("norm2", NORM),
        "mlp.0": ("mlp/fc1", LINEAR),
        "mlp.3": ("mlp/fc2", LINEAR),
    }
    return (
        *(Rule(f"{stage}.{part}", f"{ours}/{name}", arrays) for part, (name, arrays) in parts.items()),
        Rule(f"{halving}.norm", f"encoder/downsamples_{number}/norm", NORM),
        Rule(f"{halving}.reduction", f"encoder/downsamples_{number}/reduction", LINEAR[:1]),
    )


_VIT_BLOCK = {
    "ln_1": ("norm1", NORM),
    "self_attention.in_proj": ("attn/qkv", IN_PROJECTION),
    "self_attention.out_proj": ("attn/proj", LINEAR),
    "ln_2": ("norm2", NORM),
    "mlp.0": ("mlp/fc1", LINEAR),
    "mlp.3": ("mlp/fc2", LINEAR),
}
VIT = (
    Rule("class_token", "encoder/cls_token", array()),
    Rule("conv_proj", "encoder/patch_embed", CONV),
    Rule("encoder.pos_embedding", "encoder/position", (("", ("/pos_embed", "/pos_embed_cls"), POSITIONS),)),
    *(
        Rule(f"encoder.layers.encoder_layer_{{}}.{part}", f"encoder/blocks/{{}}/{name}", arrays)
        for part, (name, arrays) in _VIT_BLOCK.items()
    ),
    Rule("encoder.ln", "encoder/norm", NORM),
    Rule("heads.head", "head", LINEAR),
)
SWIN = (
    Rule("features.0.0", "encoder/stem/patch", CONV),
    Rule("features.0.2", "encoder/stem/norm", NORM),
    *(rule for number in range(STAGES) for rule in _swin_stage(number)),
    Rule("norm", "encoder/norm", NORM),
    Rule("head", "head", LINEAR),
)
_CONVNEXT = (
    *convnext(
        lambda number: f"features.{2 * number}",
        lambda number: f"features.{2 * number + 1}",
        {
            "block.0": ("conv", CONV),
            "block.2": ("norm", NORM),
            "block.3": ("mlp/fc1", LINEAR),
            "block.5": ("mlp/fc2", LINEAR),
            "layer_scale": ("gamma", array(CHANNELS_FIRST)),
        },
    ),
)
# The same norm is one of the mean where there is a head, and one of every cell where there is none.
_OF_MEAN, _OF_CELLS = Rule("classifier.0", "pooling/norm", NORM), Rule("classifier.0", "encoder/norm", NORM)
CONVNEXT = (*_CONVNEXT, _OF_MEAN, _OF_CELLS, Rule("classifier.2", "head", LINEAR))


def flat_indices(state, image_size):
    """As `buffers.relative_indices`, but flat: (N * N,) beside every table of relative positions."""
    return {name: index.reshape(-1) for name, index in relative_indices(state, image_size).items()}


FORMATS = (
    Format("torchvision_vit", "torchvision", "vit", "classifier", VIT),
    Format("torchvision_swin", "torchvision", "swin", "classifier", SWIN, (flat_indices,)),
    Format("torchvision_convnext", "torchvision", "convnext", "classifier", CONVNEXT),
    Format(
        "torchvision_convnext_backbone", "torchvision", "convnext", "classifier", (*_CONVNEXT, _OF_CELLS)
    ),
)

_WINDOWS = dict(window_size=[7, 7], mlp_ratio=4.0)
# What torchvision's functions of these names build.
BUILDERS = {
    "vit_b_16": dict(patch_size=16, num_layers=12, num_heads=12, hidden_dim=768, mlp_dim=3072),
    "vit_b_32": dict(patch_size=32, num_layers=12, num_heads=12, hidden_dim=768, mlp_dim=3072),
    "vit_l_16": dict(patch_size=16, num_layers=24, num_heads=16, hidden_dim=1024, mlp_dim=4096),
    "vit_l_32": dict(patch_size=32, num_layers=24, num_heads=16, hidden_dim=1024, mlp_dim=4096),
    "vit_h_14": dict(patch_size=14, num_layers=32, num_heads=16, hidden_dim=1280, mlp_dim=5120),
    "swin_t": dict(embed_dim=96, depths=[2, 2, 6, 2], num_heads=[3, 6, 12, 24], **_WINDOWS),
    "swin_s": dict(embed_dim=96, depths=[2, 2, 18, 2], num_heads=[3, 6, 12, 24], **_WINDOWS),
    "swin_b": dict(embed_dim=128, depths=[2, 2, 18, 2], num_heads=[4, 8, 16, 32], **_WINDOWS),
    "convnext_tiny": dict(block_setting=[[96, 192, 3], [192, 384, 3], [384, 768, 9], [768, None, 3]]),
    "convnext_small": dict(block_setting=[[96, 192, 3], [192, 384, 3], [384, 768, 27], [768, None, 3]]),
    "convnext_base": dict(block_setting=[[128, 256, 3], [256, 512, 3], [512, 1024, 27], [1024, None, 3]]),
    "convnext_large": dict(block_setting=[[192, 384, 3], [384, 768, 3], [768, 1536, 27], [1536, None, 3]]),
}


def describe(encoder, image_size, channels=3, pooling=None, classes=0):
    """How torchvision is told of the model that a backbone of ours is.

    Args:
      encoder: a ViT, Swin or ConvNeXt, a Flax module.
      image_size: (height, width) in pixels.
      channels: of the images; torchvision's models have 3.
      pooling: of a classifier, a key of `heads.POOLINGS`; None for the backbone's own.
      classes: 0 for no head.

    Returns:
      {"architecture": class in torchvision.models, "epsilon": of its norms, "arguments": for it}, and
      "builder": the function of torchvision.models that makes the same, given the number of classes and a
      ViT's image_size, where there is one. "block_setting" of a ConvNeXt has a list for each CNBlockConfig.

    Raises:
      UserError: torchvision has no such model.
    """
    family = family_of(encoder)
    if family not in _DESCRIBED:
        _refuse(f"has no {family}")
    if channels != 3:
        _refuse(f"has models of 3 channels, not of {channels}")
    architecture, explain, poolings = _DESCRIBED[family]
    if classes and (pooling or encoder.pooling) not in poolings:
        _refuse(f"has no {architecture} that classifies by '{pooling or encoder.pooling}'")
    arguments = {**explain(encoder, image_size), "num_classes": classes}
    found = dict(architecture=architecture, epsilon=encoder.epsilon, arguments=arguments)
    named = (name for name, sizes in BUILDERS.items() if sizes.items() <= arguments.items())
    builder = next(named, None)
    return {**found, "builder": builder} if builder else found


def _refuse(reason):
    raise UserError(f"torchvision {reason}: choose another library, such as --to=timm")


def _describe_vit(encoder, image_size):
    height, width = image_size
    if height != width:
        _refuse(f"has ViTs of square images only, not of {height} x {width}")
    if encoder.positions == "none":
        _refuse("has no ViT without a table of positions")
    if encoder.relative_positions != "none":
        _refuse("has no ViT with relative positions")
    if encoder.layer_scale is not None:
        _refuse("has no ViT with LayerScale")
    return dict(
        image_size=height,
        patch_size=encoder.patch_size,
        num_layers=encoder.depth,
        num_heads=encoder.heads,
        hidden_dim=encoder.width,
        mlp_dim=int(encoder.width * encoder.mlp_ratio),
    )


def _describe_swin(encoder, image_size):
    if encoder.positions != "none":
        _refuse("has no Swin with positions of its cells")
    return dict(
        patch_size=[4, 4],
        embed_dim=encoder.width,
        depths=list(encoder.depths),
        num_heads=list(encoder.heads),
        window_size=[one_window(encoder, image_size, _refuse)] * 2,
        mlp_ratio=float(encoder.mlp_ratio),
    )


def _describe_convnext(encoder, image_size):
    if encoder.epsilon != 1e-6:
        _refuse(f"has no ConvNeXt with an epsilon of {encoder.epsilon:g}, only with 1e-06")
    ends = (*encoder.widths[1:], None)
    setting = zip(encoder.widths, ends, encoder.depths, strict=True)
    return dict(block_setting=[list(stage) for stage in setting], layer_scale=encoder.layer_scale)


# {family: (class, what makes its arguments, poolings that it can have)}
_DESCRIBED = {
    "vit": ("VisionTransformer", _describe_vit, ("cls",)),
    "swin": ("SwinTransformer", _describe_swin, ("pool", "norm_pool")),
    "convnext": ("ConvNeXt", _describe_convnext, ("pool_norm",)),
}
_HEADS = {"VisionTransformer": "heads", "SwinTransformer": "head", "ConvNeXt": "classifier.2"}


def build(description, state=None):
    """torchvision's model of a description, in eval mode; without a head where that has no classes.

    state: {name: array} with all of its names, buffers too; None leaves PyTorch's initial values.

    Raises:
      UserError: names or shapes are not those of the model; torch or torchvision is not installed.
    """
    torch, models = import_torch(), _models()
    name, arguments = description["architecture"], dict(description["arguments"])
    if name == "ConvNeXt":
        setting = models.convnext.CNBlockConfig
        arguments["block_setting"] = [setting(*stage) for stage in arguments["block_setting"]]
    else:
        arguments["norm_layer"] = partial(torch.nn.LayerNorm, eps=description["epsilon"])
    classes = arguments.pop("num_classes")
    model = getattr(models, name)(**arguments, num_classes=max(1, classes)).eval()
    if not classes:
        model.set_submodule(_HEADS[name], torch.nn.Identity())
    if state is not None:
        _load(model, state)
    return model


def _models():
    import_torchvision()
    from torchvision import models

    return models


def _load(model, state):
    torch = import_torch()
    tensors = {name: torch.from_numpy(np.array(x)) for name, x in state.items()}
    try:
        model.load_state_dict(tensors, strict=True)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise UserError(f"torchvision does not take these arrays, expected all of a {reason}") from error


def look(model, images):
    """What a model of `build` makes of images.

    Args:
      images: (B, H, W, 3) float32, normalised.

    Returns:
      {"block 1" or "stage 1", ...: tokens (B, h, w, D)}; of a ViT "cls" (B, D); where there is a head
      "logits" (B, classes). The last tokens are normed, but not those of a ConvNeXt with a head, whose
      norm comes after its mean.
    """
    torch, name = import_torch(), type(model).__name__
    modules, arrange = _LAYERS[name]
    seen = []
    hooks = [module.register_forward_hook(lambda *call: seen.append(call[-1])) for module in modules(model)]
    try:
        with torch.inference_mode():
            logits = model(torch.from_numpy(np.ascontiguousarray(np.moveaxis(images, -1, 1))))
            found = arrange(model, seen)
    finally:
        for hook in hooks:
            hook.remove()
    if _has_head(model):
        found["logits"] = logits
    return {name: x.numpy() for name, x in found.items()}


def _has_head(model):
    return not isinstance(model.get_submodule(_HEADS[type(model).__name__]), import_torch().nn.Identity)


def _blocks(model):
    *inner, _ = model.encoder.layers
    return (*inner, model.encoder.ln)


def _of_blocks(model, outputs):
    """[(B, 1 + h * w, D)] -> grids, and the last cls token."""
    side = model.image_size // model.patch_size
    grids = {f"block {number}": x[:, 1:].unflatten(1, (side, side)) for number, x in enumerate(outputs, 1)}
    return {**grids, "cls": outputs[-1][:, 0]}


def _windowed_stages(model):
    return (*(model.features[2 * stage + 1] for stage in range(STAGES - 1)), model.norm)


def _of_windows(model, outputs):
    return {f"stage {number}": x for number, x in enumerate(outputs, 1)}


def _convolved_stages(model):
    return [model.features[2 * stage + 1] for stage in range(STAGES)]


def _of_convolutions(model, outputs):
    """[(B, D, h, w)] -> grids, the last normed where there is no head."""
    *inner, last = outputs
    last = last if _has_head(model) else model.classifier[0](last)
    return _of_windows(model, [x.permute(0, 2, 3, 1) for x in (*inner, last)])


# {class: (the modules whose outputs are told, what makes layers of those)}
_LAYERS = {
    "VisionTransformer": (_blocks, _of_blocks),
    "SwinTransformer": (_windowed_stages, _of_windows),
    "ConvNeXt": (_convolved_stages, _of_convolutions),
}
