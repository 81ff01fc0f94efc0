"""Cases, tasks and tables of experiments/step_gpu."""

import importlib
import json
import runpy
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def modules():
    """The modules `cases` and `table` of the experiment."""
    folder = str(ROOT / "experiments" / "step_gpu")
    sys.path.insert(0, folder)
    try:
        yield importlib.import_module("cases"), importlib.import_module("table")
    finally:
        sys.path.remove(folder)
        for name in ("cases", "table"):
            sys.modules.pop(name, None)


def test_every_case_has_a_config(modules):
    cases, _ = modules
    for case in cases.CASES.values():
        file, _, variant = case.config.partition(":")
        config = runpy.run_path(str(ROOT / "configs" / f"{file}.py"))["get_config"](variant)
        assert config.data.image_size == (case.pixels, case.pixels)
        config.update_from_flattened_dict(case.tiny)


def test_tasks_come_in_order_of_priority(modules):
    cases, _ = modules
    variant = cases.parse_variant(["*:dots", "method.remat=dots", "env.XLA_FLAGS=--a=b"])
    names = ["pr_mim_mae_vit_b16", "mae_vit_b16"]
    tasks = cases.make_tasks(names, ("ours", "published"), cases.PUBLISHED_MODES, [variant], {"seed": "1"})
    assert [task.label for task in tasks] == [
        "mae_vit_b16 ours default",
        "mae_vit_b16 ours dots",
        "mae_vit_b16 published fp16+bf16",
        "mae_vit_b16 published bf16_compile",
        "pr_mim_mae_vit_b16 ours default",
        "pr_mim_mae_vit_b16 ours dots",
        "mae_vit_b16 published fp16_compile",
    ]
    assert tasks[1].changes == {"seed": "1", "method.remat": "dots"}
    assert tasks[1].environment == {"XLA_FLAGS": "--a=b"}


def test_bad_variants_are_refused(modules):
    cases, _ = modules
    for words in (["mae_vit_b16"], ["nothing:name"], ["*:name", "key"]):
        with pytest.raises(ValueError, match="is not"):
            cases.parse_variant(words)


def test_the_table_compares_both_sides(modules, tmp_path):
    cases, table = modules
    ours = dict(case="mae_vit_b16", side="ours", mode="default", batch=1024, device="GPU", software="jax")
    ours |= dict(ms=200.0, ms_min=199.0, ms_max=201.0, img_s=5120.0, mfu=0.4, peak_gb=40.0, compile_s=30.0)
    profile = dict(
        case="mae_vit_b16", side="ours", mode="default", ms_by_class={"products": 90.0, "norm": 10.0}
    )
    theirs = dict(ours, side="published", mode="fp16", batch=512, img_s=3000.0)
    rows = [ours, profile, theirs, dict(theirs, mode="bf16", img_s=3200.0)]
    rows += [dict(case="mae_vit_b16", side="published", mode="bf16_compile", failed="out of time")]
    (tmp_path / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    results = table.read_results(tmp_path / "results.jsonl")
    lines = table.tables(results, cases.CASES, cases.COMPARED_WITH)
    (row,) = [line for line in lines if line.startswith("| MAE ViT-B/16 224 px |")]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[1:7] == ["1024", "200.0 (199.0 to 201.0)", "5,120", "40.0%", "40.0", "30"]
    assert cells[7:] == ["3,000, 40.0, batch 512", "3,200, 40.0, batch 512", "–", "1.71", "1.60", "–"]
    assert not any("PR-MIM" in line for line in lines)  # our step was not timed
    assert "| MAE ViT-B/16 | 90.0 | 10.0 | 100.0 |" in lines
    assert "- mae_vit_b16 published bf16_compile: out of time" in lines
