"""Methods published after MAE, from cases of test data, and their arrays by published names."""

import re

from flax.traverse_util import flatten_dict, unflatten_dict

from fastmim_jax import create_method
from fastmim_jax.config import pretrain_config

BLOCK = r"(norm1|norm2|attn\.qkv|attn\.proj|mlp\.fc1|mlp\.fc2)"
RULES = [  # published name, our path
    (r"(cls_token|pos_embed)", r"encoder/\1"),
    (r"(mask_token)", r"\1"),
    (r"patch_embed\.proj", r"encoder/patch_embed"),
    (r"norm", r"encoder/norm"),
    (rf"blocks\.(\d+)\.{BLOCK}", r"encoder/blocks/\1/\2"),
    (rf"decoder_blocks\.(\d+)\.{BLOCK}", r"decoder/blocks/\1/\2"),
    (r"decoder_blocks\.(\d+)\.cross_attn\.(\w+)", r"decoder/blocks/\1/attn/\2"),
    (r"dec_norms\.(\d+)", r"decoder/blocks/\1/memory_norm"),
    (r"decoder_(embed|norm|pred)", r"decoder/\1"),
]


def method_of(name, case, **changes):
    """The method `name` with the sizes of a case; `changes` are keys of `config.method`."""
    config, section = case["config"], pretrain_config().method
    section.backbone.update(
        name="vit_b16", **{key: config[old] for key, old in (("width", "embed_dim"), ("depth", "depth"))}
    )
    section.backbone.update(heads=config["num_heads"], mlp_ratio=float(config["mlp_ratio"]))
    section.update(name=name, target="pixel", mask_ratio=case["mask_ratio"], dtype="float32")
    section.decoder.update(width=config["decoder_embed_dim"], depth=config["decoder_depth"])
    section.decoder.update(heads=config["decoder_num_heads"], mlp_ratio=float(config["mlp_ratio"]))
    section.update_from_flattened_dict(changes)
    return create_method(section)


def our_path(name):
    """Our path of a published array."""
    module, _, leaf = name.rpartition(".")
    leaf = {"weight": "kernel"}.get(leaf, leaf) if module else leaf
    for theirs, ours in RULES:
        if re.fullmatch(theirs, module or leaf):
            path = re.sub(theirs, ours, module or leaf).replace(".", "/")
            leaf = "scale" if "norm" in path.split("/")[-1] and leaf == "kernel" else leaf
            return f"{path}/{leaf}" if module else path
    raise KeyError(name)


def params_of(weights, **own):
    """Our parameters of published weights; `own` are arrays under our paths joined by "__"."""
    arrays = {key.replace("__", "/"): x for key, x in own.items()}
    for name, x in weights.items():
        path = our_path(name)
        x = x.transpose(2, 3, 1, 0) if x.ndim == 4 else x.T if path.endswith("kernel") else x
        arrays[path] = x
    return unflatten_dict(arrays, sep="/")


def gradients_of(grads, names):
    """Gradients by published names, in our shapes, whose norms are the same."""
    flat = flatten_dict(grads, sep="/")
    return {name: flat[our_path(name)] for name in names}
