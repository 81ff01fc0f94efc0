"""The backbone of MixMIM (MixMAE, arXiv 2205.13137): Swin with large windows that are never shifted.

Source: the published `models_mixmim.py` and `models_mixmim_ft.py`.
"""

from typing import Any

from fastmim_jax.models.pyramid import STAGES
from fastmim_jax.models.resample import bicubic
from fastmim_jax.models.swin import SIZES as SWIN_SIZES
from fastmim_jax.models.swin import WindowedBackbone

MAX_WINDOW = 16  # side of a window in the first two stages, in cells


def largest_window(side: int) -> int:
    """Return the largest divisor of a grid's side up to 16: 14 at 224 px, 16 at 384 px, as published."""
    return max(size for size in range(1, MAX_WINDOW + 1) if side % size == 0)


class MixMIMEncoder(WindowedBackbone):
    """Windows of up to 16 cells in the first two stages, global attention in the last two.

    Attributes:
      windows: side of the windows of each stage; None: chosen by the image size.
    """

    windows: tuple[int, ...] | None = None
    positions: str = "fixed"

    family = "mixmim"
    window_field = "windows"
    downsample_offset = 1
    resampling = {"relative_position_bias_table": bicubic}
    official_tail_groups = 0  # the head is in the last block's group, as published
    pooling = "pool"

    def window_options(self, stage: int) -> dict[str, Any]:
        """Return the keyword arguments of a stage's module that set its windows."""
        window = self.windows[stage] if self.windows else None
        default = largest_window if stage < STAGES - 2 else lambda side: side
        return dict(window=window, default_window=default, shifted=False)


SIZES = {
    "b": SWIN_SIZES["b"],
    "l": SWIN_SIZES["l"],
    "h": dict(width=352, depths=(2, 2, 18, 2), heads=(11, 22, 44, 88)),
}
VARIANTS = {f"mixmim_{size}": (MixMIMEncoder, sizes) for size, sizes in SIZES.items()}
