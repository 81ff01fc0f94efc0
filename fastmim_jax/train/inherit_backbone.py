"""What a config of fine-tuning leaves open, from the config of the run that it starts from."""

import copy

from fastmim_jax.errors import UserError
from fastmim_jax.models.zoo import ZOO, attributes
from fastmim_jax.stages import at_stage, stage_count

OF_A_SIZE = ("window", "windows")  # chosen for the size of the images
OWN = ("drop_path", "position_grid")  # of training, not of the parameters


def inherit_backbone(config, saved):
    """A copy of `config` whose backbone is complete.

    Unset keys of `config.model.backbone` become those of the saved config, where it has the same backbone;
    windows only for images of the same size. A ViT's fixed positions become learned ones, as all published
    fine-tuning has them, and positions are resampled from the grid that they were made for.

    Args:
      config: of fine-tuning.
      saved: config of the run that its parameters come from, pre-training or fine-tuning; None for none.

    Raises:
      UserError: there is no backbone, or two different ones.
    """
    config = copy.deepcopy(config)
    ours = config.model.backbone
    if saved is None:
        if not ours.name:
            raise UserError(
                "config.model.backbone.name is not set and there is no config.init to take it from: type "
                "--config.init=WORKDIR of a pre-training run, or --config=configs/finetune.py:vit_b16"
            )
        return config
    saved = at_stage(saved, stage_count(saved) - 1)
    theirs = (saved.method if "method" in saved else saved.model).backbone
    ours.name = ours.name or theirs.name
    if ours.name != theirs.name:
        raise UserError(
            f"config.model.backbone.name is '{ours.name}', but the checkpoint of config.init is of "
            f"'{theirs.name}': give another --config.init, or --config.model.backbone.name={theirs.name}"
        )
    same_size = tuple(saved.data.image_size) == tuple(config.data.image_size)
    known = attributes(ours.name)
    for key, value in theirs.items():
        if ours[key] is None and key not in OWN and (same_size or key not in OF_A_SIZE):
            ours[key] = value
    _set_positions(ours, theirs, known, saved.data.image_size)
    return config


def _set_positions(ours, theirs, known, image_size):
    if "positions" not in known:
        return
    constructor, sizes = ZOO[ours.name]
    kind = ours.positions or constructor.positions
    is_vit = "patch_size" in known
    if is_vit and kind == "fixed":
        ours.positions = "learned"
    if kind != "none" and ours.position_grid is None:
        cell = (ours.patch_size or sizes["patch_size"]) if is_vit else constructor.embed_stride
        ours.position_grid = theirs.get("position_grid") or tuple(side // cell for side in image_size)
