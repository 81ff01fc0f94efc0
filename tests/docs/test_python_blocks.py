"""The Python blocks of the pages run, with tiny models and images in the place of those that they name.

Training is replaced by models that were not trained; the README's blocks and the notebooks run in tests of
their own, with training.
"""

import inspect
from functools import partial

import jax
import numpy as np
import pytest

import fastmim_jax
from fastmim_jax.api import loaded_model, training
from fastmim_jax.api.settings import apply_settings
from fastmim_jax.config import finetune_config, pretrain_config
from fastmim_jax.data import masks
from fastmim_jax.evaluate.dense_probes.probe import dense_probe
from fastmim_jax.evaluate.dense_probes.table import DenseLine, DenseTable
from fastmim_jax.export.bundle import ModelBundle, write_workdir
from helpers import classifiers, small
from helpers.code_blocks import PAGES, blocks
from helpers.stripes import write_stripes

RUN = [path for path in PAGES if path.name != "README.md" and blocks(path, "python")]


def write_pretrained(folder):
    """Write a tiny MAE; return its work directory."""
    bundle = ModelBundle(small.mae(small.config()), {})
    keys = {"params": jax.random.key(0), "mask": jax.random.key(0)}
    variables = small.variables_of(bundle.network(), keys, np.zeros((1, 32, 32, 3)))
    write_workdir(bundle._replace(variables=variables), folder, {"source": "a test"})
    return folder


def write_classifier(folder):
    """Write a tiny classifier; return its work directory."""
    write_workdir(classifiers.classifier("vit"), folder, {"source": "a test"})
    return folder


def _table(signature, *args, **options):
    """A table of one layer and a baseline for each kind."""
    given = signature.bind(*args, **options).arguments
    scores = {"mIoU": 0.5}
    lines = [DenseLine(kind, "block 2", scores, 0.5, "", [0.5, 0.5]) for kind in given["kinds"]]
    lines.append(DenseLine(given["kinds"][0], "always wall", scores))
    return DenseTable(given["path"], "", lines, ("wall", "sky"))


@pytest.fixture
def stand_ins(tmp_path, monkeypatch, one_device):
    """Let functions of training return untrained runs, and paths that do not exist be tiny ones."""
    small.write_images(tmp_path / "images" / "ant", 4)
    runs = {
        "pretrain": write_pretrained(tmp_path / "mae"),
        "finetune": write_classifier(tmp_path / "tuned"),
    }
    configs = {"pretrain": pretrain_config, "finetune": finetune_config}

    def trained(name, function, *args, **options):
        given = inspect.signature(function).bind(*args, **options).arguments
        apply_settings(configs[name](), given.get("settings", {}), name)
        return runs[name]

    for name in runs:
        stand_in = partial(trained, name, getattr(fastmim_jax, name))
        monkeypatch.setattr(fastmim_jax, name, stand_in, raising=False)
    load, open_images = fastmim_jax.load, loaded_model.open_images

    def load_any(path, **options):
        return load(path if path in runs.values() else runs["pretrain"], **options)

    def open_any(images, *args):
        if isinstance(images, list):
            images = [tmp_path / "images" / "ant" / f"{index:03}.png" for index in range(len(images))]
        missing = isinstance(images, str) and images != "sample"
        return open_images(str(tmp_path / "images") if missing else images, *args)

    write_stripes(tmp_path / "stripes")
    open_masks = partial(masks.open_masks, tmp_path / "stripes")
    monkeypatch.setattr(masks, "open_masks", lambda path, **options: open_masks(**options))
    monkeypatch.setattr(training, "dense_probe", partial(_table, inspect.signature(dense_probe)))
    monkeypatch.setattr(fastmim_jax, "load", load_any, raising=False)
    monkeypatch.setattr(loaded_model, "open_images", open_any)
    monkeypatch.chdir(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("page", RUN, ids=lambda path: path.stem)
def test_the_blocks_of_a_page_run(page, stand_ins, capsys):
    names = {}
    for block in blocks(page, "python"):
        if "import fastmim_jax" not in block:
            assert "fastmim_jax" in names, f"{page.name}: the first block imports fastmim_jax"
        exec(compile(block, page.name, "exec"), names)
    assert {"model", "run", "masks"} & {*names}


def test_every_page_with_python_is_known():
    pages = {"convert.md", "dense.md", "evaluate.md", "index.md", "own_data.md"}
    assert {path.name for path in RUN} == pages
