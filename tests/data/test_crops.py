"""The order and the random numbers of the stream are Grain's, so that runs of any age resume."""

import grain
import numpy as np
import pytest

from fastmim_jax.data.crops import Order, RandomOfPosition


@pytest.mark.parametrize("records", [1, 2, 7, 1000])
def test_the_order_is_that_of_grain(records):
    expected = grain.MapDataset.range(records).shuffle(seed=2**32 - 2).repeat()
    order = Order(records, 2**32 - 2)
    numbers = [*range(3 * records)][-500:] + [10**12 + 7]
    assert [order(number) for number in numbers] == [expected[number] for number in numbers]
    assert [Order(records, None)(number) for number in numbers] == [n % records for n in numbers]


def test_random_numbers_are_those_of_grain():
    def draw(_, rng):
        return [rng.random(), rng.integers(100), rng.uniform(2, 3), rng.integers(7, dtype=np.uint8)]

    expected = grain.MapDataset.range(2**40).random_map(draw, seed=5)
    random = RandomOfPosition(5)
    for position in (0, 1, 2**39 + 1, 1):  # whatever was drawn before
        assert draw(None, random.at(position)) == expected[position]
        random.at(3).integers(9, dtype=np.uint8)
