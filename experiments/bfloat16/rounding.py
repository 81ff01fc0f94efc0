"""Gradients of a tiny CMT in float32, with arrays rounded to bfloat16 at chosen places.

python experiments/bfloat16/rounding.py

CMT's modules are replaced by copies that pass arrays through `rounded`. Which places round is an argument
of the compiled gradient, so that all trials share one compilation.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from cases import make_method, smooth_images

from fastmim_jax.models import cmt
from fastmim_jax.models.layers import PatchEmbed, layer_norm

SEEDS, MOST_PLACES = (0, 1, 2), 200
PLACES: list[str] = []  # in the order of tracing; a place and "'" is the gradient there
STEM = ("stem.norm", "stem.halving")
DOWNSAMPLING = ("down.in", "down.product", "down.norm")
STREAM = ("local_sum", "attn_sum", "ffn_sum")
FC1 = ("fc1.out", "gelu1")
LN2 = ("ln2", "fc1.in")
FFN = ("norm1", "conv", "conv_sum", "gelu2", "fc2.out", "norm3")
FFN_PRODUCTS = ("norm2", "fc2.in", "fc1.kernel", "fc2.kernel")
ATTENTION = ("local", "ln1", "reduce_norm", "proj.out")


@jax.custom_vjp
def _round_where(x, forward, backward):
    return jnp.where(forward, jax.lax.reduce_precision(x, 8, 7), x)


def _round_gradient(backward, gradient):
    return _round_where(gradient, backward, False), None, None


_round_where.defvjp(
    lambda x, forward, backward: (_round_where(x, forward, backward), backward), _round_gradient
)


class Rounding:
    """The traced mask of the places that round."""

    mask = jnp.zeros(MOST_PLACES, bool)


def rounded(place, x):
    """Return x, rounded to bfloat16 where the mask says so; likewise its gradient."""
    for name in (place, f"{place}'"):
        if name not in PLACES:
            PLACES.append(name)
    flags = (Rounding.mask[PLACES.index(name)] for name in (place, f"{place}'"))
    return _round_where(x, *flags)


class Linear(nn.Module):
    """A linear layer of tokens, with the parameters of a Dense or of a 1 x 1 convolution."""

    width: int
    dense: bool

    @nn.compact
    def __call__(self, x):
        shape = (x.shape[-1], self.width)
        init = nn.initializers.xavier_uniform() if self.dense else cmt.fan_out_normal()
        kernel = self.param("kernel", init, shape if self.dense else (1, 1, *shape)).reshape(shape)
        product = rounded(f"{self.name}.in", x) @ rounded(f"{self.name}.kernel", kernel)
        return rounded(
            f"{self.name}.out", product + self.param("bias", nn.initializers.zeros, (self.width,))
        )


class RoundedFFN(cmt.InvertedResidualFFN):
    """The FFN with roundings."""

    @nn.compact
    def __call__(self, x):
        width = x.shape[-1]
        x = rounded("gelu1", cmt.gelu(Linear(int(width * self.ratio), False, name="fc1")(x)))
        x = rounded("norm1", self._norm(x, "norm1"))
        x = rounded("conv_sum", x + rounded("conv", cmt.DepthwiseConv(name="conv")(x)))
        x = rounded("norm2", self._norm(rounded("gelu2", cmt.gelu(x)), "norm2"))
        return rounded("norm3", self._norm(Linear(width, False, name="fc2")(x), "norm3"))


class Attention(cmt.LightweightAttention):
    """The attention with roundings."""

    @nn.compact
    def __call__(self, x, bias):
        coarse, width = x, x.shape[-1]
        if self.reduction > 1:
            coarse = cmt.DepthwisePatchConv(self.reduction, name="reduce")(x)
            coarse = rounded("reduce_norm", cmt.BatchNorm(self.norm_groups, name="reduce_norm")(coarse))
        query, key, value = (
            jnp.swapaxes(self._split_heads(Linear(width, True, name=name)(cells)), 1, 2)
            for name, cells in (("q", x), ("k", coarse), ("v", coarse))
        )
        scores = jnp.einsum("...qd,...kd->...qk", query, key) * query.shape[-1] ** -0.5 + bias
        attended = rounded("weights", jax.nn.softmax(scores)) @ value
        return Linear(width, True, name="proj")(jnp.swapaxes(attended, 1, 2).reshape(x.shape))


class Block(cmt.CMTBlock):
    """The block with roundings."""

    @nn.compact
    def __call__(self, x, bias, *, scales=(None, None)):
        x = rounded("local_sum", x + rounded("local", cmt.DepthwiseConv(name="local")(x)))
        y = rounded("ln1", layer_norm(self.epsilon, jnp.float32, name="norm1")(x))
        y = Attention(self.heads, self.reduction, norm_groups=self.norm_groups, name="attn")(y, bias)
        x = rounded("attn_sum", x + y)
        y = rounded("ln2", layer_norm(self.epsilon, jnp.float32, name="norm2")(x))
        return rounded(
            "ffn_sum", x + RoundedFFN(self.mlp_ratio, norm_groups=self.norm_groups, name="mlp")(y)
        )


class Downsampling(cmt.PatchEmbedNorm):
    """The patch embedding and its norm with roundings."""

    @nn.compact
    def __call__(self, x):
        inits = self.kernel_init, self.bias_init
        x = PatchEmbed(self.patch_size, self.width, jnp.float32, *inits, name="patch")(
            rounded("down.in", x)
        )
        return rounded("down.norm", layer_norm(1e-5, jnp.float32, name="norm")(rounded("down.product", x)))


class Stem(cmt.Stem):
    """The stem with roundings."""

    @nn.compact
    def __call__(self, x):
        for index, stride in enumerate((2, 1, 1), 1):
            x = cmt.gelu(cmt.Conv(self.conv_width, 3, stride, name=f"conv{index}")(x))
            x = rounded("stem.norm", cmt.BatchNorm(self.norm_groups, name=f"norm{index}")(x))
        return rounded("stem.halving", Downsampling(2, self.width, **cmt.conv_inits(), name="halving")(x))


class Trials:
    """The exact gradients of all seeds, and those with roundings."""

    def __init__(self):
        cmt.Stem, cmt.CMTBlock, cmt.PatchEmbedNorm = Stem, Block, Downsampling
        self.method = make_method("fastmim_cmt", dtype="float32")
        self.cases = [self._case(seed) for seed in SEEDS]
        self.exact = [self.gradient(case, []) for case in self.cases]

    def _case(self, seed):
        images = smooth_images(jax.random.key(seed + 10))
        noise = jax.random.uniform(jax.random.key(seed), self.method.noise_shape(images.shape))
        key = jax.random.key(seed)
        return jax.jit(self.method.init)({"params": key, "mask": key}, images), images, noise

    @functools.cached_property
    def _jitted(self):
        def gradient(variables, images, noise, mask):
            Rounding.mask = mask
            params, stats = variables["params"], {"batch_stats": variables["batch_stats"]}

            def loss(params):
                variables = {"params": params, **stats}
                return self.method.apply(variables, images, noise=noise, mutable=["batch_stats"])[0].loss

            return jax.grad(loss)(params)

        return jax.jit(gradient)

    def gradient(self, case, places):
        """Return the gradient of a case with roundings at the places, one vector."""
        mask = np.isin(np.arange(MOST_PLACES), [PLACES.index(place) for place in places])
        leaves = jax.tree.leaves(self._jitted(*case, mask))
        return np.concatenate([np.ravel(leaf) for leaf in leaves]).astype(np.float64)

    def report(self, name, places):
        """Print 1 - cosine with the exact gradient for each seed, in units of 1e-4; return the mean."""
        values = []
        for case, exact in zip(self.cases, self.exact, strict=True):
            found = self.gradient(case, places)
            values.append(1e4 * (1 - found @ exact / np.linalg.norm(found) / np.linalg.norm(exact)))
        print(f"{name:60} {np.mean(values):6.2f}", *(f"{value:6.2f}" for value in values), flush=True)
        return np.mean(values)


def main():
    trials = Trials()
    forward = [place for place in PLACES if not place.endswith("'")]
    kernels = [place for place in forward if place.endswith(".kernel")]
    inputs = [place for place in forward if place.endswith(".in") and place != "down.in"]
    trials.report("everything", PLACES)
    trials.report("forward", forward)
    trials.report("backward", [place for place in PLACES if place.endswith("'")])
    for place in PLACES:
        trials.report(place, [place])
    big = STEM + DOWNSAMPLING + STREAM
    for name, exact in {
        "stem": STEM,
        "stem, downsampling": STEM + DOWNSAMPLING,
        "stem, downsampling, stream": big,
        "and fc1's output": big + FC1,
        "and LN2": big + FC1 + LN2,
        "and the FFN's elementwise operations": big + FC1 + LN2 + FFN,
        "and the attention's": big + FC1 + LN2 + FFN + ATTENTION,
        "the same without fc1's input": big + FC1 + ("ln2",) + FFN + ATTENTION,
        "stem, downsampling, stream, FFNs": big + FC1 + LN2 + FFN + FFN_PRODUCTS,
        "and the attention's elementwise operations": big + FC1 + LN2 + FFN + FFN_PRODUCTS + ATTENTION,
        "all but products": set(forward) - {*kernels, *inputs, "weights"},
        "all but kernels": set(forward) - set(kernels),
    }.items():
        names = {*exact, *(f"{place}'" for place in exact)}
        trials.report(f"in float32: {name}", [place for place in PLACES if place not in names])


if __name__ == "__main__":
    main()
