"""Window sizes of a Swin or MixMIM for images of one size, as configs of libraries need them."""

from collections.abc import Callable
from typing import NoReturn

import flax.linen as nn

from fastmim_jax.models.pyramid import STAGES

Refuse = Callable[[str], NoReturn]


def fitted_windows(encoder: nn.Module, image_size: tuple[int, int]) -> tuple[tuple[int, int], ...]:
    """Return the (rows, columns) of the windows of each stage, in tokens, as the stages choose them.

    Args:
      encoder: a windowed backbone.
      image_size: (height, width) in pixels.

    Raises:
      UserError: no window divides a grid.
    """
    windows = []
    for stage in range(STAGES):
        options = encoder.window_options(stage)
        grid = tuple(side // (encoder.embed_stride * 2**stage) for side in image_size)
        window = options["window"] or tuple(options["default_window"](side) for side in grid)
        window = (window, window) if isinstance(window, int) else window
        windows.append(tuple(min(*sides) for sides in zip(window, grid, strict=True)))
    return tuple(windows)


def square_windows(encoder: nn.Module, image_size: tuple[int, int], refuse: Refuse) -> tuple[int, ...]:
    """Return the side of the square windows of each stage, in tokens.

    refuse: raises a UserError for windows that are not square, given the sentence's end.
    """
    windows = fitted_windows(encoder, image_size)
    for rows, columns in windows:
        if rows != columns:
            refuse(f"has square windows only, not of {rows} x {columns} tokens")
    return tuple(rows for rows, _ in windows)


def one_window(encoder: nn.Module, image_size: tuple[int, int], refuse: Refuse) -> int:
    """Return the side of the square windows of all stages, in tokens.

    refuse: raises a UserError for windows that are not square or differ between stages.
    """
    sides = square_windows(encoder, image_size, refuse)
    if len(set(sides)) > 1:
        refuse(
            f"has one window size for all stages, here they are {', '.join(map(str, sides))} tokens wide"
        )
    return sides[0]


def check_shifts(encoder: nn.Module, image_size: tuple[int, int], refuse: Refuse) -> None:
    """Check that a window which spans its grid does so along both axes.

    Libraries shift the windows along both axes or none, ours along each axis that a window does not span.

    refuse: raises a UserError, given the sentence's end.
    """
    for stage, side in enumerate(square_windows(encoder, image_size, refuse)):
        reached = [length // (encoder.embed_stride * 2**stage) == side for length in image_size]
        if any(reached) and not all(reached):
            refuse("shifts no window that spans the grid along one axis only")
