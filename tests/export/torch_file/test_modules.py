"""Objects whose classes are not read: their entries, attributes or state dict."""

from fastmim_jax.export.torch_file.arrays import StoredArray
from fastmim_jax.export.torch_file.modules import attributes_of
from fastmim_jax.export.torch_file.unpickler import StandIn


def stand_in(state=None, entries=None):
    made = StandIn("a.b")
    made.state, made.entries = state, entries
    return made


def test_entries_come_before_attributes():
    assert attributes_of(stand_in({"x": 1}, {"y": 2})) == {"y": 2}
    assert attributes_of(stand_in({"x": 1})) == {"x": 1}
    assert attributes_of(stand_in((1, 2))) is None


def test_a_model_is_a_state_dict():
    weight, bias = StoredArray(), StoredArray()
    inner = stand_in({"_parameters": {"weight": weight, "bias": None}, "_buffers": {}, "_modules": {}})
    outer = stand_in({"_parameters": {}, "_buffers": {"mean": bias}, "_modules": {"0": inner, "1": inner}})
    assert attributes_of(outer) == {"mean": bias, "0.weight": weight, "1.weight": weight}


def test_a_model_inside_itself_ends():
    model = stand_in({"_parameters": {"w": StoredArray()}})
    model.state["_modules"] = {"a": model, "b": model}
    assert len(attributes_of(model)) < 100_000
