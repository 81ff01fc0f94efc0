"""The description of a run before its first step."""

from fastmim_jax.config import pretrain_config
from fastmim_jax.plan import make_pretrain_plan
from fastmim_jax.train.report import describe_plan


def test_the_published_recipe_in_words():
    plan = make_pretrain_plan(
        pretrain_config(), records=1_281_167, stride=16, num_masked=lambda blocks: 48, devices=8
    )
    notes = dict(describe_plan(plan))
    assert notes["images"] == "128 x 128 pixels" and notes["tokens"] == "8 x 8"
    assert notes["batch"] == "4,096, in as few parts as fit in memory"
    assert notes["steps"] == "250,227 = 800 epochs of 312.8"
    assert notes["learning rate"] == "0.0024 after 20 epochs of warm-up"
    assert notes["masked blocks"] == "48 of 8 x 8 = 64"
