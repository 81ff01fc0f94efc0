"""bfloat16 against float32: gradients, and losses over 20 updates, of tiny models of every family.

python experiments/bfloat16/measure.py gradients [CASE ...]
python experiments/bfloat16/measure.py losses [CASE ...]
"""

import functools
import sys

import jax
import numpy as np
from cases import CASES, make_method, smooth_images

from fastmim_jax.train import state, steps
from fastmim_jax.train.optimizer import make_optimizer

SEEDS, STEPS, LEARNING_RATE = (0, 1, 2), 20, 1e-3
DTYPES = {  # of the method, beside the float32 that it is compared with
    "bfloat16": dict(dtype="bfloat16"),
    "float32 residual": dict(dtype="bfloat16", residual_dtype="float32"),
}


def gradient_function(method):
    """Return a function (variables, images, noise) -> the gradient of the loss, one vector."""

    @jax.jit
    def gradient(variables, images, noise):
        params, others = variables["params"], {key: x for key, x in variables.items() if key != "params"}

        def loss(params):
            out, _ = method.apply({"params": params, **others}, images, noise=noise, mutable=list(others))
            return out.loss

        return jax.grad(loss)(params)

    def flat(*args):
        return np.concatenate([np.ravel(x) for x in jax.tree.leaves(gradient(*args))]).astype(np.float64)

    return flat


def cosines(case):
    """Return {dtype: cosine with the float32 gradient for each seed}."""
    exact = make_method(case, dtype="float32")
    functions = {name: gradient_function(make_method(case, **dtype)) for name, dtype in DTYPES.items()}
    gradient, found = gradient_function(exact), {name: [] for name in DTYPES}
    init = jax.jit(lambda key, images: exact.init({"params": key, "mask": key}, images))
    for seed in SEEDS:
        images = smooth_images(jax.random.key(seed + 10))
        noise = jax.random.uniform(jax.random.key(seed), exact.noise_shape(images.shape))
        variables = init(jax.random.key(seed), images)
        expected = gradient(variables, images, noise)
        for name, function in functions.items():
            ours = function(variables, images, noise)
            found[name].append(ours @ expected / np.linalg.norm(ours) / np.linalg.norm(expected))
    return found


def loss_function(method):
    """Return a function: seed -> the losses of STEPS updates by the package's step."""
    optimizer_of = functools.partial(make_optimizer, betas=(0.9, 0.95), epsilon=1e-8, weight_decay=0.05)
    images = jax.eval_shape(smooth_images, jax.random.key(0))
    init = jax.jit(state.initializer(method, optimizer_of, images.shape[1:]))
    params = jax.eval_shape(init, jax.random.key(0)).params
    update = functools.partial(
        steps.pretrain_step,
        method=method,
        prepare=lambda images, flip: images,
        optimizer=optimizer_of(params),
        schedule=lambda step: LEARNING_RATE,
    )
    step = jax.jit(lambda train_state, batch, key: update(train_state, batch, key=key))

    def losses(seed):
        train_state, key, values = init(jax.random.key(seed)), jax.random.key(seed + 100), []
        for index in range(STEPS):
            images = smooth_images(jax.random.fold_in(jax.random.key(seed + 10), index))
            train_state, metrics = step(train_state, {"image": images, "flip": None}, key)
            values.append(float(metrics["loss"]))
        return np.array(values)

    return losses


def loss_differences(case):
    """Return the largest relative difference of a bfloat16 loss for each seed, and the float32 losses."""
    exact, rounded = (loss_function(make_method(case, dtype=dtype)) for dtype in ("float32", "bfloat16"))
    expected = [exact(seed) for seed in SEEDS]
    pairs = zip(SEEDS, expected, strict=True)
    return [abs(rounded(seed) / values - 1).max() for seed, values in pairs], expected


def main():
    what, *chosen = sys.argv[1:]
    for case in chosen or CASES:
        if what == "gradients":
            for name, values in cosines(case).items():
                print(case, f"{name}:", *(f"{value:.5f}" for value in values), flush=True)
            continue
        differences, expected = loss_differences(case)
        print(case, "bfloat16:", *(f"{value:.2%}" for value in differences), end="; ")
        print("float32 losses:", *(f"{x[0]:.4f} to {x[-1]:.4f}" for x in expected), flush=True)


if __name__ == "__main__":
    main()
