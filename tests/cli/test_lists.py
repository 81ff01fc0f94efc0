"""`fastmim configs`, `models` and `config`."""

import pytest

from fastmim_jax.__main__ import main
from fastmim_jax.cli.lists import config_lines, key_lines, model_lines
from fastmim_jax.config import finetune_config, pretrain_config
from fastmim_jax.config_keys import key_meanings, suggest_key
from fastmim_jax.recipes import load_config
from fastmim_jax.saved_config import flatten
from fastmim_jax.segment_config import segment_config


@pytest.mark.parametrize(
    ("kind", "config"),
    [("pretrain", pretrain_config()), ("finetune", finetune_config()), ("segment", segment_config())],
)
def test_every_key_has_a_meaning(kind, config):
    meanings = key_meanings(kind)
    assert set(meanings) == set(flatten(config))
    assert not [key for key, meaning in meanings.items() if len(meaning) < 5]


def test_keys_are_listed_with_value_default_and_meaning(capsys):
    main(["config", "--config=configs/own.py:tiny", "--config.seed=3"])
    lines = capsys.readouterr().out.splitlines()
    (seed,) = [line for line in lines if line.startswith("seed ")]
    assert seed.split()[:4] == ["seed", "3", "[default", "0]"] and seed.endswith("order of the images")
    (batch,) = [line for line in lines if line.startswith("schedule.batch_size ")]
    assert " auto " in batch and "[default 4096]" in batch
    assert list(key_lines(load_config("configs/finetune.py")))[-1].startswith("\ntype --config.KEY=VALUE")


def test_configs_are_listed(capsys):
    text = "\n".join(config_lines())
    assert "configs/mae.py  MAE (arXiv 2111.06377)" in text and "mae_vit_ti16" in text
    assert "800 epochs, batch 4096" in "\n".join(config_lines("mae"))


@pytest.mark.slow
def test_models_are_listed(capsys):
    main(["models"])
    assert "swin_b" in capsys.readouterr().out
    (_, line) = model_lines("vit_ti16")
    assert line.split()[:3] == ["vit_ti16", "16", "12"] and "mae" in line and line.endswith("5.5 M")


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("batchsize", "schedule.batch_size"),
        ("schedule.batchsize", "schedule.batch_size"),
        ("epoch", "schedule.epochs"),
        ("lr", "optimizer.base_lr"),
        ("data.img_size", "data.image_size"),
        ("xyzzy", None),
    ],
)
def test_the_key_that_was_meant(name, key):
    assert suggest_key(name, flatten(pretrain_config())) == key
