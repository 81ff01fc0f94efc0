"""Saved configs open with the current keys, and only differences that change the training count."""

import json

import pytest

from fastmim_jax.config import finetune_config, pretrain_config
from fastmim_jax.saved_config import RENAMED_KEYS, config_from_dict, differences, flatten, rename_keys

DEFAULTS = {"method": pretrain_config, "model": finetune_config}
# One value of each renamed key that is not its default.
OTHER_VALUES = {
    "optimizer.no_decay": ["mask_token"],
    "optimizer.ema_decay": 0.9,
    "augment.magnitude_std": 0.1,
    "augment.random_erasing": 0.5,
    "augment.repeated_augmentation": 3,
    "augment.label_smoothing": 0.2,
}


def save(config):
    """Return a config as it is read back from config.json."""
    return json.loads(config.to_json(indent=2))


def with_old_keys(saved):
    """Return a saved config as an older version wrote it."""
    saved = json.loads(json.dumps(saved))
    for old, new in RENAMED_KEYS.items():
        (section, old_key), new_key = old.split("."), new.split(".")[1]
        if new_key in saved.get(section, {}):
            saved[section][old_key] = saved[section].pop(new_key)
    return saved


def test_every_old_key_is_renamed_to_a_key_of_its_section():
    known = {key for default in DEFAULTS.values() for key in flatten(default())}
    assert set(RENAMED_KEYS.values()) == set(OTHER_VALUES) <= known
    assert not known.intersection(RENAMED_KEYS)
    assert all(old.split(".")[0] == new.split(".")[0] for old, new in RENAMED_KEYS.items())


@pytest.mark.parametrize("section", DEFAULTS)
def test_a_config_with_old_keys_opens_with_its_values(section):
    config = DEFAULTS[section]()
    own = {key: value for key, value in OTHER_VALUES.items() if key in flatten(config)}
    config.update_from_flattened_dict({k: tuple(x) if isinstance(x, list) else x for k, x in own.items()})
    old = with_old_keys(save(config))
    assert any(key in flatten(old) for key in RENAMED_KEYS)
    opened = config_from_dict(old)
    assert flatten(opened) == flatten(config)
    assert {key: flatten(opened)[key] for key in own} == own
    assert differences(old, config) == [] == differences(save(opened), config)


def test_a_changed_value_differs_under_its_current_key():
    config = finetune_config()
    old = with_old_keys(save(config))
    config.augment.label_smoothing = 0.3
    assert differences(old, config) == [("augment.label_smoothing", 0.1, 0.3)]


def test_the_current_key_counts_where_a_section_has_both():
    saved = {"model": {}, "augment": {"erase": 0.5, "random_erasing": 0.1}}
    assert rename_keys(saved)["augment"] == {"random_erasing": 0.1}
    assert saved["augment"] == {"erase": 0.5, "random_erasing": 0.1}  # the argument is not changed


@pytest.mark.parametrize("section", [{"erase": 0.5}, 3, None])
def test_unknown_sections_stay_as_they_are(section):
    assert rename_keys({"mine": section}) == {"mine": section}


@pytest.mark.parametrize("value", [3, None])
def test_a_section_that_is_no_section_stays_as_it_is(value):
    assert rename_keys({"augment": value}) == {"augment": value}


@pytest.mark.parametrize("section", DEFAULTS)
def test_missing_keys_get_their_defaults(section):
    saved = save(DEFAULTS[section]())
    saved["seed"] = 7
    del saved["optimizer"], saved["schedule"]["shape"], saved[section]["backbone"]["positions"]
    config = config_from_dict(saved)
    assert config.seed == 7 and config.schedule.shape == "cosine"
    assert config.optimizer == DEFAULTS[section]().optimizer
    assert differences(saved, config) == []


def test_only_keys_that_change_the_training_differ():
    before, now = pretrain_config().to_dict(), pretrain_config()
    now.run.log_every, now.monitor.images = 7, 9
    assert differences(before, now) == []
    now.optimizer.base_lr = 1.0
    now.method.backbone.depth = 3
    assert differences(before, now) == [
        ("method.backbone.depth", None, 3),
        ("optimizer.base_lr", 1.5e-4, 1.0),
    ]
