"""Key tables of detectron2's ViT (ViTDet) and Swin inside of a detector's backbone.

Names of ViT are MAE's, which detectron2 loads itself; it uses neither the class token nor the last norm,
and says so when it loads the file. Its Swin has a norm after each stage; the last one is the backbone's.
"""

from fastmim_jax.export.formats.buffers import relative_indices
from fastmim_jax.export.formats.official import keys as official
from fastmim_jax.export.formats.rules import Format, Rule

VIT_PREFIX, SWIN_PREFIX = "backbone.net", "backbone.bottom_up"


def _inside(prefix: str, rules: tuple[Rule, ...]) -> tuple[Rule, ...]:
    return tuple(rule._replace(theirs=f"{prefix}.{rule.theirs}") for rule in rules)


SWIN = tuple(rule._replace(theirs="norm3") if rule.theirs == "norm" else rule for rule in official.SWIN)
FORMATS = (
    Format("detectron2_vit", "detectron2", "vit", "classifier", _inside(VIT_PREFIX, official.VIT)),
    Format(
        "detectron2_swin",
        "detectron2",
        "swin",
        "classifier",
        _inside(SWIN_PREFIX, SWIN),
        (relative_indices,),
    ),
)
