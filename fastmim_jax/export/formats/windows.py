"""The windows of a Swin or MixMIM for images of one size, as configs of libraries ask for them."""

from fastmim_jax.models.pyramid import STAGES


def fitted_windows(encoder, image_size):
    """(rows, columns) of the windows of each stage in cells, as the stages themselves choose them.

    Args:
      encoder: a backbone of windows, a Flax module.
      image_size: (height, width) in pixels.

    Raises:
      UserError: no window divides a grid.
    """
    windows = []
    for stage in range(STAGES):
        told = encoder.window_options(stage)
        grid = tuple(side // (encoder.embed_stride * 2**stage) for side in image_size)
        window = told["window"] or tuple(told["choose"](side) for side in grid)
        window = (window, window) if isinstance(window, int) else window
        windows.append(tuple(min(*sides) for sides in zip(window, grid, strict=True)))
    return tuple(windows)


def square_windows(encoder, image_size, refuse):
    """The side of the windows of each stage in cells; otherwise as `fitted_windows`.

    refuse: raises a UserError, given what a library has not.
    """
    windows = fitted_windows(encoder, image_size)
    for rows, columns in windows:
        if rows != columns:
            refuse(f"has no windows of {rows} x {columns} cells, which are not square")
    return tuple(rows for rows, _ in windows)


def one_window(encoder, image_size, refuse):
    """The side of the windows of all stages; otherwise as `square_windows`."""
    sides = square_windows(encoder, image_size, refuse)
    if len(set(sides)) > 1:
        refuse(f"has one window for all stages, here they are {', '.join(map(str, sides))} cells wide")
    return sides[0]
