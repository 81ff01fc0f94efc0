"""Sentences with flags become sentences with keywords."""

import pytest

from fastmim_jax.api.spelling import python_errors, to_python
from fastmim_jax.errors import OutOfMemoryError


@pytest.mark.parametrize(
    ("sentence", "spelled"),
    [
        ("type --config.data.path=DIR", "type data__path='DIR'"),
        ("type --config.method.block_size=8, or another", "type method__block_size=8, or another"),
        ("type --config.data.image_size='(64, 64)'", "type data__image_size=(64, 64)"),
        ("lower --config.optimizer.base_lr, set --config.x.y=1.", "lower optimizer__base_lr, set x__y=1."),
        ("type another --workdir", "type another out"),
        ("type --kinds=ridge or leave", "type kinds='ridge' or leave"),
        ("type --extend to go on, or --overwrite.", "type extend=True to go on, or overwrite=True."),
        ("nothing to type", "nothing to type"),
    ],
)
def test_flags_become_keywords(sentence, spelled):
    assert to_python(sentence) == spelled


def test_the_kind_of_an_error_stays():
    @python_errors
    def fail():
        raise OutOfMemoryError("type a smaller --config.schedule.batch_size")

    with pytest.raises(OutOfMemoryError, match="type a smaller schedule__batch_size$"):
        fail()
