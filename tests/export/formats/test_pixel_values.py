"""The values that a model takes as its pixels, in descriptions of models that leave this package."""

import numpy as np
import pytest

from fastmim_jax.data.decode import decode
from fastmim_jax.data.limits import DecodeRules
from fastmim_jax.export.formats.huggingface.describe import preprocessor_files
from fastmim_jax.export.formats.library import ModelSpec
from fastmim_jax.export.formats.pixel_values import describe_values, rescaling
from helpers import small


@pytest.mark.parametrize("value_range", [(), (-1024, 3071)])
def test_a_processor_of_transformers_normalises_the_same_values_alike(value_range):
    data = small.config().data
    data.value_range = value_range
    spec = ModelSpec(None, (32, 32), mean=(0.4,) * 3, std=(0.2,) * 3, rescaling=rescaling(data))
    processor = preprocessor_files(spec)["preprocessor_config.json"]
    values = np.linspace(*(value_range or (0, 255)), 48).reshape(4, 4, 3).astype(np.float64)
    theirs = values * processor["rescale_factor"] - np.array(processor["image_mean"])
    rules = DecodeRules(value_range=value_range or (0, 255), dtype="float32")
    ours = (decode(values, 3, rules) - 0.4) / 0.2
    np.testing.assert_allclose(theirs / processor["image_std"], ours, atol=1e-5)
    if not value_range:
        assert (processor["rescale_factor"], processor["image_mean"]) == (1 / 255, [0.4] * 3)


def test_values_are_described_where_they_are_not_8_bits():
    data = small.config().data
    assert describe_values(data) is None
    data.update(value_range=(0, 4095), nodata=-9999.0, pixel_dtype="uint16")
    assert describe_values(data) == (
        "0 to 4095 become pixels 0 to 65535 of uint16, values outside are clipped, NaN and -9999 (nodata) "
        "become 0"
    )
