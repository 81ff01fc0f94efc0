"""The bundled configs with one block, for tests that run documented code as it stands."""

from fastmim_jax import recipes
from fastmim_jax.api import own_loop, training


def shallow_configs(monkeypatch):
    """Let `load_config` return configs whose backbone and decoder have one block, and draw no pictures."""
    original = recipes.load_config

    def load(name):
        config = original(name)
        if "method" in config and config.method.backbone.depth:
            config.method.backbone.depth = config.method.decoder.depth = 1
            config.run.picture_every = 0
        return config

    for module in (recipes, own_loop, training):
        monkeypatch.setattr(module, "load_config", load)
