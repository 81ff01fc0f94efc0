"""The docstring examples of public functions run and give what they show."""

import doctest
from importlib import import_module

import pytest

EXAMPLES = [  # (module, public function with a `>>>` example)
    ("fastmim_jax.build", "create_classifier"),
    ("fastmim_jax.build", "create_method"),
    ("fastmim_jax.data.decode", "decode"),
    ("fastmim_jax.data.sources", "open_source"),
    ("fastmim_jax.mim.hog", "hog"),
    ("fastmim_jax.mim.masking", "random_mask"),
    ("fastmim_jax.models.positions", "sincos_positions"),
    ("fastmim_jax.models.zoo", "create_model"),
    ("fastmim_jax.train.optimizer", "make_schedule"),
    ("fastmim_jax.train.transfer", "transfer"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("module", "function"), EXAMPLES, ids=lambda name: name.split(".")[-1])
def test_example_runs(module, function):
    module = import_module(module)
    finder = doctest.DocTestFinder(recurse=False)
    (example,) = finder.find(getattr(module, function), function, module=False, globs=vars(module).copy())
    assert example.examples, f"{function} has no example (>>>) in its docstring"
    messages = []
    doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(example, out=messages.append)
    assert not messages, "".join(messages)
