"""Complete the backbone of a fine-tuning config from the config of the run that it starts from."""

import copy

from fastmim_jax.models.zoo import backbone_fields, create_model
from fastmim_jax.stages import at_stage, stage_count
from fastmim_jax.validate import check_size_given, check_start

OF_A_SIZE = ("window", "windows")  # chosen for the size of the images
OWN = ("drop_path", "position_grid")  # of training, not of the parameters


def inherit_backbone(config, saved):
    """Return a copy of `config` whose backbone is complete.

    `config.data.image_size` of () becomes that of the last stage of the saved config. Unset keys of
    `config.model.backbone` are copied from the saved config, window sizes only for images of
    the same size. Fixed positions of a ViT become learned ones, as in all published fine-tuning, and
    positions are resampled from the grid of pre-training.

    Args:
      config: of fine-tuning.
      saved: config of the pre-trained or fine-tuned run that the parameters come from, or None.

    Raises:
      UserError: no backbone is named, or a different one than in the saved config.
    """
    config = copy.deepcopy(config)
    ours = config.model.backbone
    if saved is None:
        check_start(config, None)
        check_size_given(config.data)
        return config
    saved = at_stage(saved, stage_count(saved) - 1)
    config.data.image_size = tuple(config.data.image_size) or tuple(saved.data.image_size)
    theirs = (saved.method if "method" in saved else saved.model).backbone
    check_start(config, theirs.name)
    ours.name = theirs.name
    same_size = tuple(saved.data.image_size) == tuple(config.data.image_size)
    for key, value in theirs.items():
        if ours[key] is None and key not in OWN and (same_size or key not in OF_A_SIZE):
            ours[key] = value
    _set_positions(ours, theirs, saved.data.image_size)
    return config


def _set_positions(ours, theirs, image_size):
    fields = backbone_fields(ours.name).intersection(("positions", "patch_size"))
    encoder = create_model(ours.name, **{key: ours[key] for key in fields if ours[key] is not None})
    if encoder.positions == "fixed" and encoder.finetunes_learned_positions:
        ours.positions = "learned"
    if encoder.positions != "none" and ours.position_grid is None:
        grid = tuple(side // encoder.embed_stride for side in image_size)
        ours.position_grid = theirs.get("position_grid") or grid
