"""Window sizes of Swin and MixMIM for images of one size."""

import pytest

from fastmim_jax.errors import UserError
from fastmim_jax.export.formats.windows import check_shifts, fitted_windows, one_window, square_windows
from fastmim_jax.models.zoo import create_model


def refuse(end):
    raise UserError(f"the library {end}")


@pytest.mark.parametrize(
    ("name", "side", "expected"),
    [
        ("swin_t", 224, (7, 7, 7, 7)),
        ("swin_b", 384, (12, 12, 12, 12)),
        ("mixmim_b", 224, (14, 14, 14, 7)),
        ("mixmim_b", 384, (16, 16, 24, 12)),
    ],
)
def test_windows_are_the_published_ones(name, side, expected):
    assert square_windows(create_model(name), (side, side), refuse) == expected


def test_no_window_exceeds_its_grid():
    encoder = create_model("swin_t", window=4)
    assert fitted_windows(encoder, (64, 128)) == ((4, 4), (4, 4), (4, 4), (2, 4))
    with pytest.raises(UserError, match="the library has square windows only, not of 2 x 4 tokens"):
        square_windows(encoder, (64, 128), refuse)


def test_windows_of_two_sides_are_rows_and_columns():
    encoder = create_model("swin_t", window=(2, 4))
    assert fitted_windows(encoder, (256, 256)) == ((2, 4),) * 4


def test_one_window_for_all_stages_or_none():
    assert one_window(create_model("swin_t"), (224, 224), refuse) == 7
    with pytest.raises(UserError, match="here they are 14, 14, 14, 7 tokens wide"):
        one_window(create_model("mixmim_b"), (224, 224), refuse)


def test_windows_span_both_axes_or_none():
    check_shifts(create_model("swin_t"), (224, 224), refuse)
    with pytest.raises(UserError, match="the library shifts no window that spans the grid along one axis"):
        check_shifts(create_model("swin_t", window=7), (224, 448), refuse)
