"""Each operation against its definition, and the draws against their distributions."""

import pickle

import numpy as np
import pytest
from PIL import Image

from fastmim_jax.data.randaugment import (
    GRAY_FILL,
    IMAGENET_FILL,
    OPERATIONS,
    Operation,
    RandAugment,
    apply_operations,
)
from helpers.sweeps import thin

NAMES = sorted(OPERATIONS)
ENHANCERS = [f"{kind}Increasing" for kind in ("Color", "Contrast", "Brightness", "Sharpness")]
GEOMETRIC = ["Rotate", "ShearX", "ShearY", "TranslateXRel", "TranslateYRel"]


def picture(height=40, width=60, channels=3, low=0, high=255):
    """Blocks with noise, every channel different."""
    rng = np.random.default_rng(channels)
    blocks = rng.integers(low, high + 1, (height // 4 + 1, width // 4 + 1, channels))
    big = blocks.repeat(4, 0).repeat(4, 1)[:height, :width]
    return (big + rng.integers(-9, 10, big.shape)).clip(low, high).astype(np.uint8)


def run(name, image, level=9.0, sign=1, fill=None):
    return apply_operations(image, [Operation(name, level, sign)], fill)


def channelwise(image, function):
    return np.stack([function(image[..., c]) for c in range(image.shape[2])], -1)


def stretched(channel):
    low, high = int(channel.min()), int(channel.max())
    # 1e-9: products that should be integers may fall below by rounding.
    return np.floor((channel - low) * (255 / (high - low)) + 1e-9)


def equalized(channel):
    """Pillow's definition: pixels below a value, over pixels per output level without the last value."""
    counts = np.bincount(channel.ravel(), minlength=256)
    step = (channel.size - counts[np.flatnonzero(counts)[-1]]) // 255
    return ((step // 2 + counts.cumsum() - counts) // step).clip(0, 255)[channel]


def test_the_set_is_timm_increasing():
    assert len(OPERATIONS) == 15
    rest = {
        "AutoContrast",
        "Equalize",
        "Invert",
        "PosterizeIncreasing",
        "SolarizeIncreasing",
        "SolarizeAdd",
    }
    assert set(NAMES) == {*ENHANCERS, *GEOMETRIC, *rest}


@pytest.mark.parametrize("channels", thin([1, 3, 5], 3))
@pytest.mark.parametrize("name", NAMES)
def test_every_operation_keeps_shape_and_input(name, channels):
    image = picture(channels=channels)
    before = image.copy()
    image.setflags(write=False)
    for level in (0.0, 5.5, 10.0):
        result = run(name, image, level, -1)
        assert result.shape == image.shape and result.dtype == np.uint8
        assert result.flags.writeable
    assert (image == before).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_operations_of_values(channels):
    image = picture(channels=channels, low=30, high=220)
    x = image.astype(int)
    assert (run("Invert", image) == 255 - x).all()
    # 1 of 255: where a product is an integer, floats may fall on either side of it.
    assert np.abs(run("AutoContrast", image) - channelwise(x, stretched)).max() <= 1
    assert run("AutoContrast", image).min() == 0 and run("AutoContrast", image).max() >= 254
    assert (run("Equalize", image) == channelwise(x, equalized)).all()
    for level, sign in [(0, 1), (2.6, -1), (9.0, 1), (10, -1)]:
        m = level / 10
        bits = 4 - int(m * 4)
        assert (
            run("PosterizeIncreasing", image, level, sign) == x // 2 ** (8 - bits) * 2 ** (8 - bits)
        ).all()
        threshold = 256 - int(m * 256)
        expected = np.where(x < threshold, x, 255 - x)
        assert (run("SolarizeIncreasing", image, level, sign) == expected).all()
        expected = np.where(x < 128, np.minimum(x + int(m * 110), 255), x)
        assert (run("SolarizeAdd", image, level, sign) == expected).all()


def test_published_numbers_at_level_9():
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)
    assert set(run("PosterizeIncreasing", ramp).ravel()) == {0, 128}  # one bit
    solarized = run("SolarizeIncreasing", ramp).ravel()  # from 26 up
    assert (solarized[:26] == np.arange(26)).all() and (solarized[26:] == np.arange(229, -1, -1)).all()
    added = run("SolarizeAdd", ramp).ravel()
    assert added[0] == 99 and added[127] == 226 and added[128] == 128


@pytest.mark.parametrize("name", [*ENHANCERS, *GEOMETRIC, "SolarizeIncreasing", "SolarizeAdd"])
def test_level_0_changes_nothing(name):
    for channels in (1, 3, 5):
        image = picture(channels=channels)
        assert (run(name, image, 0.0, -1) == image).all()


def blend(other, image, factor):
    return (other + (image - other) * factor).clip(0, 255)


@pytest.mark.parametrize("level, sign", [(9.0, 1), (9.0, -1), (4.0, 1)])
def test_enhancers_blend(level, sign):
    """Away from black, the mean gray, or the gray image; up to rounding (2 of 255)."""
    image = picture()
    x, factor = image.astype(float), 1 + sign * level / 10 * 0.9
    gray = np.asarray(Image.fromarray(image).convert("L"), float)[..., None]
    for kind, other in [("Brightness", 0.0), ("Contrast", gray.mean()), ("Color", gray)]:
        result = run(f"{kind}Increasing", image, level, sign)
        assert np.abs(result - blend(other, x, factor)).max() <= 2
    smooth = np.zeros_like(x[1:-1, 1:-1])  # weights of 1, 5 in the centre
    for dy in range(3):
        for dx in range(3):
            weight = 5 if dy == dx == 1 else 1
            smooth += weight * x[dy : dy + x.shape[0] - 2, dx : dx + x.shape[1] - 2] / 13
    result = run("SharpnessIncreasing", image, level, sign)[1:-1, 1:-1]
    assert np.abs(result - blend(smooth, x[1:-1, 1:-1], factor)).max() <= 2


def test_color_leaves_other_than_rgb():
    for channels in (1, 2, 5):
        image = picture(channels=channels)
        assert (run("ColorIncreasing", image) == image).all()


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("channels", [1, 3, 5])
def test_translation_moves_an_impulse_and_fills(channels, sign):
    height, width = 40, 80
    fill = tuple(range(10, 10 + channels))
    image = np.zeros((height, width, channels), np.uint8)
    image[20, 40] = 200
    level = 10 / 0.45 / 4  # a quarter of the side
    for name, axis, move in [("TranslateXRel", 1, width // 4), ("TranslateYRel", 0, height // 4)]:
        result = run(name, image, level, sign, fill)
        expected = np.roll(image, -sign * move, axis)
        outside = [slice(None)] * 2
        outside[axis] = slice(-move, None) if sign > 0 else slice(move)
        expected[tuple(outside)] = fill
        # Bicubic at integer shifts is exact, but the shift is an integer only up to float rounding.
        assert np.abs(result.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("name, along", [("ShearX", 0), ("ShearY", 1)])
def test_shear_moves_in_proportion_to_the_distance(name, along):
    """A line is moved by 0.3 of the distance from the corner, to half a pixel."""
    image = np.zeros((64, 64, 1), np.uint8)
    line = [slice(None), slice(None)]
    line[1 - along] = slice(40, 41)
    image[tuple(line)] = 255
    result = run(name, image, 10.0, 1, 0)[..., 0]
    positions = result.argmax(axis=1 - along)
    assert np.abs(positions - (40 - 0.3 * np.arange(64))).max() <= 1


@pytest.mark.parametrize("sign", [1, -1])
def test_rotation_is_about_the_centre_by_30_degrees(sign):
    image = np.zeros((65, 65, 1), np.uint8)
    image[31:34, 51:54] = 255  # 20 to the right of the centre
    result = run("Rotate", image, 10.0, sign, 0)[..., 0].astype(float)
    centre = (np.indices(result.shape) * result).sum((1, 2)) / result.sum()
    angle = np.deg2rad(30 * sign)  # positive goes up
    np.testing.assert_allclose(centre, [32 - 20 * np.sin(angle), 32 + 20 * np.cos(angle)], rtol=0, atol=0.2)
    assert (run("Rotate", image, 10.0, sign, 77)[[0, 0, -1, -1], [0, -1, 0, -1]] == 77).all()


@pytest.mark.parametrize("channels, fill", [(1, (GRAY_FILL,)), (3, IMAGENET_FILL), (4, (GRAY_FILL,) * 4)])
def test_default_fill(channels, fill):
    image = np.zeros((20, 20, channels), np.uint8)
    assert IMAGENET_FILL == tuple(round(255 * mean) for mean in (0.485, 0.456, 0.406))
    assert (run("TranslateXRel", image, 10.0)[:, -1] == fill).all()
    assert (run("TranslateXRel", image, 10.0, fill=9)[:, -1] == 9).all()


def test_fill_must_fit_the_channels():
    for count in (1, 2):
        with pytest.raises(ValueError, match=f"fill has 3 values, expected 1 .*channel .{count}."):
            RandAugment(fill=IMAGENET_FILL)(picture(channels=count), np.random.default_rng(0))


@pytest.mark.parametrize("name", NAMES)
def test_channels_are_independent(name):
    image = picture(channels=5)
    result = run(name, image, 7.0, -1, (1, 2, 3, 4, 5))
    for c in range(5):
        assert (run(name, image[..., c : c + 1], 7.0, -1, c + 1)[..., 0] == result[..., c]).all()


def test_operations_are_chained():
    image = picture()
    chain = [Operation("Rotate", 9.0, 1), Operation("Invert", 9.0, 1)]
    turned = run("Rotate", image)
    assert (apply_operations(image, chain) == 255 - turned).all()
    assert (apply_operations(image, chain[::-1]) != 255 - turned).any()  # the fill is not inverted


@pytest.mark.slow
@pytest.mark.parametrize("num_ops, probability", [(2, 0.5), (3, 0.2)])
def test_draws_follow_their_distribution(num_ops, probability):
    rng, images = np.random.default_rng(0), 15000
    policy = RandAugment(num_ops=num_ops, probability=probability)
    lists = [policy.draw(rng) for _ in range(images)]
    numbers = np.bincount([len(draws) for draws in lists], minlength=num_ops + 1) / images
    binomial = np.convolve([1 - probability, probability], [1 - probability, probability])
    if num_ops == 3:
        binomial = np.convolve(binomial, [1 - probability, probability])
    assert np.abs(numbers - binomial).max() < 0.015
    draws = [draw for draws in lists for draw in draws]
    shares = np.array([sum(draw.name == name for draw in draws) for name in NAMES]) / len(draws)
    assert np.abs(shares - 1 / 15).max() < 0.1 / 15 * 1.5
    pairs = [draws for draws in lists if len(draws) == 2]
    repeats = np.mean([a.name == b.name for a, b in pairs])  # with replacement
    assert repeats == pytest.approx(1 / 15, abs=0.015)
    assert np.mean([draw.sign for draw in draws]) == pytest.approx(0, abs=0.04)
    assert {draw.sign for draw in draws} == {-1, 1}
    levels = np.array([draw.level for draw in draws])
    assert np.median(levels) == pytest.approx(9, abs=0.03)
    assert np.diff(np.quantile(levels, [0.1587, 0.5]))[0] == pytest.approx(0.5, abs=0.03)
    assert levels.max() == 10 and (levels == 10).mean() == pytest.approx(0.0228, abs=0.007)  # 2 deviations


@pytest.mark.parametrize("magnitude, ends", [(0, {0}), (10, {10}), (5, {0, 10})])
def test_levels_are_clipped(magnitude, ends):
    rng, policy = np.random.default_rng(0), RandAugment(magnitude, magnitude_std=6.0)
    levels = [draw.level for _ in range(500) for draw in policy.draw(rng)]
    assert min(levels) >= 0 and max(levels) <= 10 and ends <= set(levels)


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_same_generator_same_image_and_pickles(channels):
    image, policy = picture(channels=channels), RandAugment(num_ops=3, probability=0.9)
    first = [policy(image, np.random.default_rng(seed)) for seed in range(10)]
    again = pickle.loads(pickle.dumps(policy))
    assert all((again(image, np.random.default_rng(seed)) == first[seed]).all() for seed in range(10))
    assert len({result.tobytes() for result in first}) > 5


def test_every_image_and_draw_advances_the_generator_equally():
    states = set()
    for probability in (0.0, 1.0):
        for image in (picture(), np.zeros((7, 5, 1), np.uint8)):
            rng = np.random.default_rng(3)
            RandAugment(probability=probability)(image, rng)
            states.add(str(rng.bit_generator.state))
    assert len(states) == 1


def test_without_operations_the_image_is_returned():
    image = picture()
    assert RandAugment(probability=0.0)(image, np.random.default_rng(0)) is image
