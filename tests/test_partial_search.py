"""The arms of the search in experiments/partial_reconstruction."""

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest

from fastmim_jax.validate import check_values

FOLDER = str(Path(__file__).parents[1] / "experiments" / "partial_reconstruction")


@pytest.fixture(scope="module")
def search():
    """The module search.py."""
    sys.path.insert(0, FOLDER)
    try:
        yield importlib.import_module("search")
    finally:
        sys.path.remove(FOLDER)
        sys.modules.pop("search", None)


def test_every_arm_has_a_valid_config(search):
    arms = [arm for ratio in (0.0, 0.5, 0.65) for arm in search.arms_of(ratio, 300)]
    assert len({*arms}) == len(arms) == len(search.DEPTHS) * (1 + 2 * len(search.KINDS))
    for arm in arms:
        config = search.config_of(arm, 1, 50_000)
        check_values(config)
        assert config.seed == 1 and config.method.partial.throw_ratio == arm.throw_ratio


def test_fewer_labels_are_disjoint_draws(search):
    order = np.arange(search.LABELS[0])
    assert [len(ids) for ids in search.draws_of(order, search.LABELS[0])] == [search.LABELS[0]]
    for labels in search.LABELS[1:]:
        draws = search.draws_of(order, labels)
        assert len(draws) == search.DRAWS and len({*np.concatenate(draws)}) == search.DRAWS * labels
