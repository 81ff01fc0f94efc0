"""Steps that the reference models of several libraries share."""

import numpy as np
import pytest

from fastmim_jax.errors import UserError
from fastmim_jax.export.formats.torch_models import check_no_differences, load_state, to_pixels

RNG = np.random.default_rng(0)


def test_every_difference_is_named():
    check_no_differences("ViT", [], [], [])
    with pytest.raises(UserError) as caught:
        check_no_differences("ViT", {"b", "a"}, [], ["c"])
    assert str(caught.value) == (
        "this is not a state dict of ViT: a, b missing; c of another shape; expected exactly the arrays of "
        "the described model"
    )
    with pytest.raises(UserError, match="ViT: n0, n1, n2, n3, n4 unexpected;"):
        check_no_differences("ViT", [], {f"n{i}" for i in range(8)}, [])


@pytest.mark.torch
def test_images_become_channels_first():
    pytest.importorskip("torch")
    images = RNG.normal(size=(2, 4, 6, 3)).astype(np.float32)
    pixels = to_pixels(images)
    assert pixels.shape == (2, 3, 4, 6) and pixels.is_contiguous()
    np.testing.assert_array_equal(pixels.numpy()[1, 2], images[1, :, :, 2])


@pytest.mark.torch
def test_a_state_is_loaded_only_if_it_is_complete():
    torch = pytest.importorskip("torch")
    model = torch.nn.Linear(3, 2)
    state = {"weight": RNG.normal(size=(2, 3)).astype(np.float32), "bias": np.ones(2, np.float32)}
    load_state(model, state, "a linear layer")
    np.testing.assert_array_equal(model.weight.detach().numpy(), state["weight"])
    with pytest.raises(UserError, match="a linear layer: bias missing; scale unexpected;"):
        load_state(model, {"weight": state["weight"], "scale": state["bias"]}, "a linear layer")
    with pytest.raises(UserError, match="weight of another shape"):
        load_state(model, {**state, "weight": state["weight"].T}, "a linear layer")
