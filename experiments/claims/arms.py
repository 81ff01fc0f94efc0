"""The arms of the claims: how each pre-trains, and what it fine-tunes.

An arm is a pre-training (None: from scratch) and a fine-tuning, as flat config keys on top of a size's.
"""

from typing import Any, NamedTuple

Keys = dict[str, Any]


class Size(NamedTuple):
    """The scale of the models and images.

    Attributes:
      image_size: pixels of a side, in pre-training and fine-tuning.
      families: "vit" or "pyramid" -> keys of the backbone, without "method." or "model." before them.
      block_sizes: side of a masked block in pixels, of each family.
      decoder: keys of the decoder.
      common: keys of both configs.
      batch_size: images per update of pre-training.
      tuning_batch: images per update of fine-tuning.
    """

    image_size: int
    families: dict[str, Keys]
    block_sizes: dict[str, int]
    decoder: Keys
    common: Keys
    batch_size: int
    tuning_batch: int


class Arm(NamedTuple):
    """A row of a table.

    Attributes:
      family: of the backbone.
      pretraining: keys of the pre-training config, or None from scratch.
      tuning: keys of the fine-tuning config.
      longer: fine-tune for the time of pre-training too; only from scratch, for the table of equal time.
    """

    family: str
    pretraining: Keys | None
    tuning: Keys = {}
    longer: bool = False


SIZES = {
    "tiny": Size(  # for a CPU
        image_size=64,
        families={
            "vit": {"name": "vit_ti8", "width": 96, "depth": 4, "heads": 3},
            "pyramid": {"name": "mixmim_b", "width": 32, "depths": (1, 1, 2, 1), "heads": (1, 2, 4, 8)},
        },
        block_sizes={"vit": 8, "pyramid": 32},
        decoder={"width": 64, "depth": 1},
        common={"dtype": "float32"},
        batch_size=256,
        tuning_batch=128,
    ),
    "small": Size(  # for an accelerator
        image_size=128,
        families={"vit": {"name": "vit_s16"}, "pyramid": {"name": "swin_t"}},
        block_sizes={"vit": 16, "pyramid": 32},
        decoder={"width": 256, "depth": 2},
        common={},
        batch_size=256,
        tuning_batch=256,
    ),
}
HOG: Keys = {"method.name": "fastmim", "method.target": "hog"}
PIXELS: Keys = {"method.name": "fastmim", "method.target": "pixel"}
MAE: Keys = {"method.name": "mae", "method.target": "pixel"}
MIXMIM: Keys = {
    "method.name": "mixmim",
    "method.target": "pixel",
    "method.mask_ratio": 0.5,
    "method.groups": 16,
}
MAIN = {
    "scratch": Arm("vit", None),
    "scratch_longer": Arm("vit", None, longer=True),
    "fastmim_hog": Arm("vit", HOG),
    "fastmim_pixel": Arm("vit", PIXELS),
    "mae": Arm("vit", MAE),
    "simmim": Arm("vit", {"method.name": "simmim", "method.target": "pixel", "method.mask_ratio": 0.6}),
    "pr_mim": Arm("vit", {**MAE, "method.partial.throw_ratio": 0.5}),
    "pyramid_scratch": Arm("pyramid", None),
    "pyramid_scratch_longer": Arm("pyramid", None, longer=True),
    "mixmim": Arm("pyramid", MIXMIM),
    "pyramid_fastmim_hog": Arm("pyramid", HOG),
}
SAMPLERS = {  # name -> sampler and fill of partial reconstruction
    "furthest": ("furthest", "progressive"),
    "plain": ("random", "none"),
    "lattice": ("lattice", "progressive"),
    "nearest": ("furthest", "nearest"),
}


def partial_arms() -> dict[str, Arm]:
    """Return MAE, and it with a share of the tokens thrown, in the ways of SAMPLERS."""
    arms = {"throw_0": Arm("vit", MAE)}
    for ratio in (0.25, 0.5, 0.65):
        for name, (sampler, fill) in SAMPLERS.items():
            keys = {"throw_ratio": ratio, "sampler": sampler, "fill": fill}
            arms[f"throw_{ratio:g}_{name}"] = Arm(
                "vit", {**MAE, **{f"method.partial.{key}": x for key, x in keys.items()}}
            )
    return arms


def groups(size: Size) -> dict[str, dict[str, Arm]]:
    """Return {claim: {name: Arm}} at a size.

    main: the methods. resolution: pre-training at other image sizes. depth: pre-training without the last
    blocks. decoder: its width and depth. target_resolution: HOG and pixels, fine-tuned on images of twice
    the size. partial: PR-MIM's throw ratios.
    """
    side = size.image_size
    depth = size.families["vit"].get("depth", 12)
    sides = [side // 2, side * 3 // 4, side, side * 5 // 4]
    larger = {"data.image_size": (2 * side, 2 * side), "data.eval_resize": 2 * side}
    pairs = {"hog": HOG, "pixel": PIXELS}
    return {
        "main": MAIN,
        "resolution": {
            f"resolution_{pixels}": Arm("vit", {**HOG, "data.image_size": (pixels, pixels)})
            for pixels in sides
        },
        "depth": {
            f"depth_{depth - left_out}": Arm(
                "vit", {**HOG, "method.backbone.depth": depth - left_out}, {"model.backbone.depth": depth}
            )
            for left_out in range(3)
        },
        "decoder": {
            f"decoder_{width}x{blocks}": Arm(
                "vit", {**HOG, "method.decoder.width": width, "method.decoder.depth": blocks}
            )
            for width, blocks in ((32, 1), (64, 1), (64, 4), (128, 1), (256, 4))
        },
        "target_resolution": {
            f"{target}_then_{factor}x": Arm("vit", keys, tuning)
            for target, keys in pairs.items()
            for factor, tuning in ((1, {}), (2, larger))
        },
        "partial": partial_arms(),
    }
