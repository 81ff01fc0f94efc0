"""The backbone of MixMIM (MixMAE, arXiv 2205.13137): Swin with large windows that are never shifted.

Source: the published `models_mixmim.py` and `models_mixmim_ft.py`.
"""

from fastmim_jax.models.pyramid import STAGES
from fastmim_jax.models.resample import bicubic
from fastmim_jax.models.swin import WindowedBackbone

LARGEST = 16  # side of a window in the first two stages


def largest_window(side):
    """The largest divisor of a grid's side up to 16: 14 at 224 px, 16 at 384 px, as published."""
    return max(size for size in range(1, LARGEST + 1) if side % size == 0)


class MixMIMEncoder(WindowedBackbone):
    """Windows of up to 16 cells in the first two stages, attention to all cells in the last two.

    Attributes:
      windows: side of the windows of each stage, or None to have them chosen by the image's size.
    """

    windows: tuple[int, ...] | None = None
    positions: str = "fixed"

    downsample_offset = 1
    resampling = {"relative_position_bias_table": bicubic}
    official_tail_groups = 0  # what follows the last block learns at its rate, as published
    pooling = "pool"

    def window_options(self, stage):
        """What tells the windows of a stage, as keyword arguments."""
        window = self.windows[stage] if self.windows else None
        choose = largest_window if stage < STAGES - 2 else lambda side: side
        return dict(window=window, choose=choose, shifted=False)
