"""Modules that the fork server of `helpers.processes` imports in advance; no device is touched."""

import sys


class WithoutTorch:
    """Hides PyTorch, which TensorBoard's writer would import, for 3 s."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == "torch":
            raise ModuleNotFoundError(name)


sys.meta_path.insert(0, WithoutTorch)

import matplotlib.backends.backend_agg  # noqa: E402
import matplotlib.figure  # noqa: E402, F401
import tensorboardX  # noqa: E402, F401
from ml_collections import config_flags  # noqa: E402, F401
from PIL import Image  # noqa: E402

import fastmim_jax.api.training  # noqa: E402
import fastmim_jax.evaluate.best_checkpoint  # noqa: E402
import fastmim_jax.evaluate.monitor  # noqa: E402
import fastmim_jax.tools.reconstruct  # noqa: E402
import fastmim_jax.train.finetune  # noqa: E402
import fastmim_jax.train.pretrain  # noqa: E402, F401
from helpers import bucket  # noqa: E402

Image.init()
bucket.register()
