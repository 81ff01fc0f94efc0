"""The attentive probe: it finds what a mean does not, and its learning rates are independent."""

from contextlib import contextmanager

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fastmim_jax.errors import UserError
from fastmim_jax.evaluate.probe import Images
from fastmim_jax.evaluate.probes import ridge
from fastmim_jax.evaluate.probes.attentive import probe
from fastmim_jax.evaluate.probes.attentive_head import RATES as DEFAULT_RATES
from fastmim_jax.evaluate.probes.attentive_head import AttentiveHead, AttentiveHeads
from fastmim_jax.train import sharding

pytestmark = pytest.mark.slow

CLASSES, WIDTH, TOKENS = 4, 16, 40
RATES = (1e-3, 1e-2)


def needles(images, seed):
    """Return (B, N, D) tokens of noise, one of them with a mark and a weak class, and labels (B,)."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(CLASSES, size=images)
    tokens = rng.normal(size=(images, TOKENS, WIDTH))
    tokens[..., 0] = -1
    index = rng.integers(TOKENS, size=images)
    tokens[np.arange(images), index, 0] = 3
    tokens[np.arange(images), index, 1 : 1 + CLASSES] = 2 * np.eye(CLASSES)[labels]
    return tokens.astype(np.float32), labels


def trained(probe, tokens, labels, batch=100):
    state = probe.init()
    for step in range(probe.steps):
        rows = np.arange(step * batch, (step + 1) * batch) % len(labels)
        state = probe.update(state, tokens[rows], labels[rows])
    return state


def test_finds_the_token_that_holds_the_class():
    tokens, labels = needles(3000, 0)
    others, wanted = needles(500, 1)
    probe = AttentiveHeads(CLASSES, WIDTH, 2, RATES, 150)
    counts = np.asarray(probe.count_correct(trained(probe, tokens, labels), others, wanted))
    assert counts.max() > 0.95 * len(wanted)
    mean = ridge.probe((tokens.mean(1), labels), (others.mean(1), wanted), CLASSES)
    assert mean.accuracy < 0.6


@pytest.mark.exhaustive
def test_learning_rates_are_independent():
    """1e-4: Adam divides by gradients that differ in their last bits, over five steps."""
    data = needles(500, 0)
    together = trained(AttentiveHeads(CLASSES, WIDTH, 4, (*RATES, np.inf), 5), *data)
    for number, rate in enumerate(RATES):
        alone = trained(AttentiveHeads(CLASSES, WIDTH, 4, (rate,), 5), *data)
        jax.tree.map(
            lambda ours, theirs: np.testing.assert_allclose(ours[number], theirs[0], atol=1e-4),  # noqa: B023
            together.params,
            alone.params,
        )


def test_a_head_that_diverged_classifies_nothing_correctly():
    tokens, labels = needles(200, 0)
    probe = AttentiveHeads(CLASSES, WIDTH, 4, (1e-2, np.inf), 5)
    counts = np.asarray(probe.count_correct(trained(probe, tokens, labels), tokens, labels))
    assert counts[0] > 20 and counts[1] == 0


def test_padding_is_ignored():
    tokens, labels = needles(60, 0)
    padded = np.concatenate([labels[:40], np.full(20, -1)])
    probe = AttentiveHeads(CLASSES, WIDTH, 2, RATES, 10)
    state = probe.init()
    short, long = probe.update(state, tokens[:40], labels[:40]), probe.update(state, tokens, padded)
    # Adam's first step is the rate times the sign of a slope: the slopes, as its mean of them.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), short.opt_state, long.opt_state)
    counts = probe.count_correct(state, tokens, padded)
    assert (counts == probe.count_correct(state, tokens[:40], labels[:40])).all()
    nothing = probe.update(state, tokens, np.full(60, -1))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(nothing.params))


def test_the_rate_decays_to_zero():
    data = needles(100, 0)
    probe = AttentiveHeads(CLASSES, WIDTH, 2, RATES, 8)
    state, moved = probe.init(), []
    for _ in range(9):
        new = probe.update(state, *data)
        moved.append(float(jnp.abs(new.params["key"] - state.params["key"]).max()))
        state = new
    # Adam's first step is as long as the rate, but for weight decay of a tenth of values below 1.
    assert moved[0] == pytest.approx(RATES[1], rel=0.1)
    assert moved[7] < 0.1 * moved[0] and moved[8] == 0


def test_the_head_is_cross_attention():
    """Against attention with every key and value written out; bfloat16 tokens are computed in float32."""
    tokens = jnp.asarray(needles(3, 0)[0], jnp.bfloat16)
    head = AttentiveHead(CLASSES, 4)
    variables = head.init(jax.random.key(0), tokens)
    params = jax.tree.map(
        lambda leaf: 3 * jax.random.normal(jax.random.key(leaf.size), leaf.shape), variables
    )
    found, p = head.apply(params, tokens), params["params"]
    x = np.asarray(tokens, np.float64)
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    keys, values = (np.einsum("bnd,dhe->bhne", x, p[name]) for name in ("key", "value"))
    weights = np.exp(np.einsum("he,bhne->bhn", p["query"], keys) / 2)  # 2: the root of 16 / 4 channels
    weights /= weights.sum(-1, keepdims=True)
    pooled = np.einsum("bhn,bhne->bhe", weights, values).reshape(3, WIDTH)
    expected = pooled @ p["head"]["kernel"] + p["head"]["bias"]
    # Scores of up to some tens in float32, through an exponential.
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())
    assert found.dtype == jnp.float32
    turned = head.apply(params, tokens[:, ::-1])
    np.testing.assert_allclose(found, turned, rtol=1e-3, atol=1e-3 * np.abs(expected).max())


@pytest.mark.parametrize("heads", [0, 3])
def test_heads_divide_the_width(heads):
    with pytest.raises(UserError, match=f"{heads} heads cannot share the 16 channels"):
        AttentiveHeads(CLASSES, WIDTH, heads)


class Needles:
    """A source of tokens in place of images; records of the same parity have the same class."""

    def __init__(self, count):
        self.tokens = np.random.default_rng(0).normal(size=(count, 4, 6)).astype(np.float32)
        self.tokens[:, :, 0] = np.where(np.arange(count) % 2, 2, -2)[:, None]

    def label(self, index):
        return index % 2


class TokenStage:
    """A frozen backbone whose "images" are the tokens of one layer already."""

    variables = {"params": {}}

    def __init__(self):
        self.mesh = sharding.make_mesh(devices=jax.devices()[:1])
        self.layers, self.read = set(), []

    def batch_size_for(self, records):
        return 16

    def tokens(self, variables, images, layer):
        self.layers.add(layer)
        return images

    @contextmanager
    def eval_batches(self, source, size, records):
        self.read.append(list(records))
        yield (
            self.batch(source, records[start : start + size], size)
            for start in range(0, len(records), size)
        )

    def batch(self, source, records, size):
        """The last batch is padded with wrong classes."""
        index = np.resize(records, size)
        valid = np.arange(size) < len(records)
        labels = np.array(
            [source.label(i) if ok else 1 - source.label(i) for i, ok in zip(index, valid, strict=True)]
        )
        return {"image": source.tokens[index], "label": labels, "valid": valid}

    def to_devices(self, batch, size, names):
        return sharding.to_devices(
            {name: batch[name] for name in names}, sharding.batch_sharding(self.mesh), size
        )


def test_the_probe_holds_a_fifth_out_and_ignores_padding():
    stage, source = TokenStage(), Needles(60)
    train, test = Images(source, np.arange(0, 50)), Images(source, np.arange(50, 60))
    result = probe(stage, "block 3", train, test, classes=2, epochs=3)
    assert stage.layers == {"block 3"}
    assert result.accuracy == 1.0 and result.held_out[result.best] == 1.0
    assert tuple(result.held_out) == DEFAULT_RATES and result.setting == f"learning rate {result.best:g}"
    _, *epochs, held_out, tested = stage.read  # the first reads one image, for the width
    assert len(epochs) == 3 and epochs[0] != epochs[1]
    assert len(held_out) == 10 and sum(record % 2 for record in held_out) == 5
    assert all(sorted([*epoch, *held_out]) == list(range(50)) for epoch in epochs)
    assert tested == list(range(50, 60))
