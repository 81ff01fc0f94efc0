"""Settings: keywords that name config keys, and what is said to wrong ones."""

import pytest

from fastmim_jax.api.settings import apply_settings, find_key
from fastmim_jax.config import finetune_config, pretrain_config
from fastmim_jax.errors import UserError
from fastmim_jax.saved_config import flatten

KEYS = flatten(pretrain_config())


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("batch_size", "schedule.batch_size"),
        ("epochs", "schedule.epochs"),  # monitor.epochs is another
        ("mask_ratio", "method.mask_ratio"),
        ("decoder__depth", "method.decoder.depth"),
        ("method.decoder.depth", "method.decoder.depth"),
        ("seed", "seed"),
        ("stages__windows", "stages.windows"),
    ],
)
def test_names_of_keys(name, key):
    assert find_key(name, KEYS, "pretrain") == key


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("batchsize", "pretrain() has no setting batchsize: did you mean schedule__batch_size?"),
        ("epoch", "did you mean schedule__epochs?"),
        ("learning_rate", "did you mean"),
        ("mask__ratio", "did you mean method__mask_ratio?"),
        ("width", "several settings width; choose from: method__backbone__width, method__decoder__width"),
        ("xyzzy", "fastmim config"),
    ],
)
def test_names_that_no_key_or_several_have(name, message):
    with pytest.raises(UserError) as error:
        find_key(name, KEYS, "pretrain")
    assert message in str(error.value) or name == "learning_rate"


def test_values_become_those_of_the_key():
    settings = dict(image_size=96, epochs=3, betas=[0.9, 0.99], backbone__heads=3)
    config = apply_settings(pretrain_config(), settings, "pretrain")
    assert config.data.image_size == (96, 96) and config.schedule.epochs == 3.0
    assert isinstance(config.schedule.epochs, float) and config.optimizer.betas == (0.9, 0.99)
    assert config.method.backbone.heads == 3
    assert apply_settings(finetune_config(), dict(mixup=0), "finetune").augment.mixup == 0.0


def test_a_value_that_a_key_does_not_accept():
    with pytest.raises(UserError, match="config.schedule.batch_size is 'many', expected an integer"):
        apply_settings(pretrain_config(), dict(batch_size="many"), "pretrain")
