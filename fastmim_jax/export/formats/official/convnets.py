"""Key tables of the convolutional backbones: CMT as in FastMIM, ConvNeXt as in timm."""

import numpy as np

from fastmim_jax.export.formats.rules import CONV, LINEAR, NORM, VECTOR, Rule, Transform, array

BATCH_NORM = (*NORM, (".running_mean", "/mean", VECTOR), (".running_var", "/var", VECTOR))


def _to_flat(x: np.ndarray) -> np.ndarray:
    """(heads, query rows, columns, key rows, columns) -> (heads, queries, keys); others are not changed."""
    return x.reshape(len(x), x.shape[1] * x.shape[2], -1) if x.ndim == 5 else x


GRIDS = Transform(lambda x: x, _to_flat, 3)

_CMT_BLOCK = {
    "proj": ("local", CONV),
    "norm1": ("norm1", NORM),
    **{f"attn.{name}": (f"attn/{name}", LINEAR) for name in ("q", "k", "v", "proj")},
    "attn.sr.0": ("attn/reduce", CONV),
    "attn.sr.1": ("attn/reduce_norm", BATCH_NORM),
    "norm2": ("norm2", NORM),
    "mlp.conv1.0": ("mlp/fc1", CONV),
    "mlp.conv1.2": ("mlp/norm1", BATCH_NORM),
    "mlp.proj": ("mlp/conv", CONV),
    "mlp.proj_bn": ("mlp/norm2", BATCH_NORM),
    "mlp.conv2.0": ("mlp/fc2", CONV),
    "mlp.conv2.1": ("mlp/norm3", BATCH_NORM),
}


def _cmt_stage(index: int, letter: str) -> tuple[Rule, ...]:
    embedding = f"encoder/downsamples_{index - 1}" if index else "encoder/stem/halving"
    stage = f"encoder/stages_{index}"
    return (
        Rule(f"patch_embed_{letter}.proj", f"{embedding}/patch", CONV),
        Rule(f"patch_embed_{letter}.norm", f"{embedding}/norm", NORM),
        Rule(f"relative_pos_{letter}", f"{stage}/relative_position", array(GRIDS)),
        *(
            Rule(f"blocks_{letter}.{{}}.{theirs}", f"{stage}/blocks/{{}}/{ours}", arrays)
            for theirs, (ours, arrays) in _CMT_BLOCK.items()
        ),
    )


CMT = (
    Rule("stem_conv{}", "encoder/stem/conv{}", CONV),
    Rule("stem_norm{}", "encoder/stem/norm{}", BATCH_NORM),
    *(rule for index, letter in enumerate("abcd") for rule in _cmt_stage(index, letter)),
    Rule("norm", "encoder/norm", NORM),
)


def _convnext_downsample(stage: int) -> tuple[Rule, ...]:
    theirs, ours = f"stages.{stage}.downsample", f"encoder/downsamples_{stage - 1}"
    return Rule(f"{theirs}.0", f"{ours}/norm", NORM), Rule(f"{theirs}.1", f"{ours}/patch", CONV)


_BLOCK, _OUR_BLOCK = "stages.{}.blocks.{}", "encoder/stages_{}/blocks/{}"
CONVNEXT = (
    Rule("stem.0", "encoder/stem/patch", CONV),
    Rule("stem.1", "encoder/stem/norm", NORM),
    *(rule for stage in (1, 2, 3) for rule in _convnext_downsample(stage)),
    Rule(f"{_BLOCK}.conv_dw", f"{_OUR_BLOCK}/conv", CONV),
    Rule(f"{_BLOCK}.norm", f"{_OUR_BLOCK}/norm", NORM),
    Rule(f"{_BLOCK}.mlp.fc1", f"{_OUR_BLOCK}/mlp/fc1", LINEAR),
    Rule(f"{_BLOCK}.mlp.fc2", f"{_OUR_BLOCK}/mlp/fc2", LINEAR),
    Rule(f"{_BLOCK}.gamma", f"{_OUR_BLOCK}/gamma", array()),
    Rule("head.norm", "encoder/norm", NORM),
)
