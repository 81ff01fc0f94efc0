"""Draw docs/pictures/METHOD.webp: inputs and targets of every method, by the library's own functions.

    python docs/scripts/draw_methods.py

The photos are scikit-image's: `astronaut` (NASA, public domain) and `chelsea` (Stefan van der Walt, CC0).
"""

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
from skimage import data

from fastmim_jax import hog
from fastmim_jax.draw.glyphs import DECODED, FILLED, VISIBLE, mark_patches, prediction_glyphs
from fastmim_jax.draw.pages import as_rgb, compose
from fastmim_jax.draw.style import FLAT, GROUND
from fastmim_jax.mim.masking import mixing_mask, num_visible, random_mask
from fastmim_jax.mim.mixmim import mix, partner
from fastmim_jax.mim.sampling import furthest, random_ranks
from fastmim_jax.mim.targets.pixels import Pixels
from fastmim_jax.models.layers import unpatchify, upsample_nearest

FOLDER = Path(__file__).parents[1] / "pictures"
SIDE, SHOWN, PATCH = 128, 224, 16  # pixels of an image, of a panel and of a patch
MASKED, ABSENT = (np.asarray(colour) / 255 for colour in (FLAT, GROUND))  # mask tokens; no token


def photo(image, left, top, side):
    """Return a square of a photo, (1, SIDE, SIDE, 3) in [0, 1]."""
    square = Image.fromarray(image).crop((left, top, left + side, top + side))
    return np.asarray(square.resize((SIDE, SIDE), Image.Resampling.LANCZOS))[None] / np.float32(255)


def panel(image):
    """Return (1, H, W, 3) in [0, 1] as a panel, with sharp pixels."""
    size = (SHOWN, SHOWN)
    return np.asarray(Image.fromarray(as_rgb(image)[0]).resize(size, Image.Resampling.NEAREST))


def draw_mask(ratio, side, seed=0):
    """Return (1, h, w) bool with a share `ratio` of blocks of `side` pixels masked."""
    grid = (SIDE // side, SIDE // side)
    noise = jax.random.uniform(jax.random.key(seed), (1, grid[0] * grid[1]))
    return random_mask(noise, grid, num_visible(noise.shape[1], ratio)), noise


def cover(image, mask, colour=MASKED):
    """Return an image with its masked blocks in one colour."""
    return np.where(upsample_nearest(mask, SIDE // mask.shape[1])[..., None], colour, image)


def normalized_patches(image):
    """Return an image whose patches have mean 0 and variance 1, for display around 0.5."""
    patches = Pixels(normalize=True)(jnp.asarray(image), PATCH)
    return np.clip(0.5 + np.asarray(unpatchify(patches, PATCH)) / 5, 0, 1)


def save(name, columns):
    """Write a page of one row, {title: (notes, panel)}, under the name of a method."""
    headers = [(title, notes) for title, (notes, _) in columns.items()]
    page = compose([[shown for _, shown in columns.values()]], headers, ())
    path = FOLDER / f"{name}.webp"
    page.save(path, quality=90, method=6)
    print(path.name, page.size, path.stat().st_size // 1000, "kB")


def draw_fastmim(image):
    mask, _ = draw_mask(0.75, PATCH)
    cells = np.asarray(hog(jnp.asarray(image))).reshape(SIDE // 8, SIDE // 8, 3, 9)
    roles = np.asarray(upsample_nearest(mask, 2))[0].astype(int)
    glyphs = prediction_glyphs(
        cells, cells, np.where(roles, DECODED, VISIBLE), SHOWN // (SIDE // 8), power=1.4
    )
    save(
        "fastmim",
        {
            "image": (("128 px",), panel(image)),
            "encoder input": (
                ("75 % of the blocks are masked; all tokens are encoded",),
                panel(cover(image, mask)),
            ),
            "target: HOG": (("amber: masked cells, in the loss",), glyphs),
        },
    )


def draw_mae(image):
    mask, _ = draw_mask(0.75, PATCH)
    save(
        "mae",
        {
            "image": ((), panel(image)),
            "encoder input": (
                ("the visible 25 % of the patches",),
                panel(cover(image, mask, ABSENT)),
            ),
            "target: pixels": (
                ("of masked patches, each normalised to mean 0 and variance 1",),
                panel(np.where(cover(np.zeros(()), mask, 1.0) > 0, normalized_patches(image), ABSENT)),
            ),
        },
    )


def draw_simmim(image):
    mask, _ = draw_mask(0.6, 32, seed=1)
    fine = np.asarray(upsample_nearest(mask, 32))[..., None]
    save(
        "simmim",
        {
            "image": ((), panel(image)),
            "encoder input": (("60 % of the blocks of 32 px are mask tokens",), panel(cover(image, mask))),
            "target: pixels": (("of the masked blocks, an L1 loss",), panel(np.where(fine, image, ABSENT))),
        },
    )


def draw_mixmim(image, other):
    grid = (SIDE // 32, SIDE // 32)
    noise = jax.random.uniform(jax.random.key(4), (1, grid[0] * grid[1]))
    mask, _ = mixing_mask(noise, grid, 0.5)
    pair = np.concatenate([image, other])
    both = jnp.repeat(mask, 2, axis=0)
    mixture = mix(jnp.asarray(pair), both, 1)[:1]
    fine = np.asarray(upsample_nearest(mask, 32))[..., None]
    partner_image = np.asarray(partner(jnp.asarray(pair), 1))[:1]
    save(
        "mixmim",
        {
            "image": ((), panel(image)),
            "its partner": (("another image of the batch",), panel(partner_image)),
            "encoder input": (("the mixture; tokens attend to their own image",), panel(mixture)),
            "target, image": (("where the mixture lacks it",), panel(np.where(fine, image, ABSENT))),
            "target, partner": (("likewise",), panel(np.where(fine, ABSENT, partner_image))),
        },
    )


def draw_pr_mim(image):
    mask, noise = draw_mask(0.75, PATCH)
    grid, tokens = mask.shape[1:], mask.shape[1] * mask.shape[2]
    flat, ranks = mask.reshape(1, tokens), random_ranks(noise, 1, tokens)
    num_decoded = int(flat.sum()) - tokens // 2  # throw_ratio 0.5
    decoded = furthest(flat, ranks, jnp.array([num_decoded]), num_decoded, grid)
    roles = np.asarray(jnp.where(flat, jnp.where(decoded, DECODED, FILLED), VISIBLE)).reshape(grid)
    marked = mark_patches(as_rgb(image)[0], roles)[None] / 255
    save(
        "pr_mim",
        {
            "image": ((), panel(image)),
            "encoder input": (("MAE's: 25 % are visible",), panel(cover(image, mask, ABSENT))),
            "roles in the decoder": (
                ("amber: 25 % decoded, far from each other; blue: 50 % thrown, filled in from neighbours",),
                panel(marked),
            ),
        },
    )


def main():
    FOLDER.mkdir(exist_ok=True)
    person = photo(data.astronaut(), 130, 0, 230)
    cat = photo(data.chelsea(), 90, 10, 280)
    for draw in (draw_fastmim, draw_mae, draw_simmim, partial(draw_mixmim, other=cat), draw_pr_mim):
        draw(person)


if __name__ == "__main__":
    main()
