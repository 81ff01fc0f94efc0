"""MAE with Pixio's switches against the published code, given sine-cosine positions in the decoder."""

import numpy as np
import pytest

from helpers import later_methods, published, small

CASES, NUMBERS = published.load("pixio")


@pytest.mark.slow
def test_equals_published():
    case = CASES["squares"]
    weights, tokens = published.weights(CASES, "squares"), case["config"]["n_cls_tokens"]
    table = weights.pop("pos_embed")[0]
    own = {
        "encoder__position__pos_embed_cls": table[:tokens],
        "encoder__position__pos_embed": table[tokens:].reshape(4, 4, -1),
    }
    method = later_methods.method_of(
        "mae",
        case,
        mask_grid=case["config"]["mask_grid"],
        **{"backbone.class_tokens": tokens, "backbone.positions": "learned"},
    )
    coarse = NUMBERS["squares/noise"].reshape(-1, 2, 2)  # one number a square of 2 x 2 patches
    noise = method.arrange_noise(coarse.repeat(2, 1).repeat(2, 2).reshape(-1, 16), (4, 64, 64, 3))
    images = published.images(case["seed"], case["batch"], 64, 64)
    out, grads = small.forward_and_gradients(method, later_methods.params_of(weights, **own), images, noise)
    found = later_methods.gradients_of(grads, weights)
    position = grads["encoder"]["position"]
    found["pos_embed"] = np.concatenate(
        [position["pos_embed_cls"], np.reshape(position["pos_embed"], (16, -1))]
    )
    published.assert_equal(case, out, found)
    np.testing.assert_array_equal(np.asarray(out.mask).reshape(4, 16), NUMBERS["squares/mask"])
    prediction = np.asarray(out.prediction)[..., ::16].reshape(4, 16, -1)
    np.testing.assert_allclose(prediction, NUMBERS["squares/prediction"], rtol=0, atol=5e-6)
