"""Pages of depths."""

import numpy as np
from PIL import Image

from fastmim_jax.draw.depths import DepthPicture, draw_depths, gray_depth


def test_pages(tmp_path):
    depth = np.array([[-1.0, 1.0, 10.0]])
    gray = gray_depth(depth, 10.0)
    assert gray.shape == (1, 3, 3) and gray[0, 0, 0] == 0 < gray[0, 2, 0] < gray[0, 1, 0]
    picture = DepthPicture(np.zeros((1, 3, 3), np.uint8), depth, depth)
    path = draw_depths(tmp_path / "depth.png", [picture], 10.0, "d1 50 %")
    with Image.open(path) as image:
        assert image.width > image.height > 100
