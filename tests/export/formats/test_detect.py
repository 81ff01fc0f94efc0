"""Formats are detected by the names of a state dict."""

import pytest

from fastmim_jax.errors import UserError
from fastmim_jax.export.formats import FORMATS
from fastmim_jax.export.formats.detect import candidate_formats, find_format
from helpers.formats import names_of
from helpers.sweeps import thin


@pytest.mark.parametrize("fmt", thin(FORMATS.values(), 9), ids=lambda fmt: fmt.name)
def test_all_names_of_a_format_detect_it(fmt):
    best = candidate_formats(names_of(fmt))[0]
    assert best == fmt or set(names_of(best)) == set(names_of(fmt))


def test_distinctive_names_decide_between_equal_formats():
    names = names_of(FORMATS["fastmim_vit"])
    assert candidate_formats(names)[0].name == "fastmim_vit"
    assert candidate_formats([*names, "decoder_pos_embed"])[0].name == "mae_vit"
    names = [name for name in names_of(FORMATS["swin_classifier"]) if name != "absolute_pos_embed"]
    assert candidate_formats([*names, "absolute_pos_embed"])[0].name == "mixmim_classifier"
    assert candidate_formats([*names, "layers.0.blocks.1.attn_mask"])[0].name == "swin_classifier"


def test_a_few_unknown_names_do_not_hide_the_format():
    names = [*names_of(FORMATS["hf_vit_mae"]), "optimizer.step", "epoch"]
    assert candidate_formats(names)[0].name == "hf_vit_mae"


@pytest.mark.parametrize("names", [[], ["a.weight", "b.weight", "norm.bias", "c", "d"]])
def test_names_of_no_format_are_refused(names):
    with pytest.raises(
        UserError, match=f"^{len(names)} names such as .* are of no known format: .*mae_vit"
    ):
        candidate_formats(names)


def test_formats_are_found_by_name():
    assert find_format("timm_vit") is FORMATS["timm_vit"]
    with pytest.raises(UserError, match="unknown format 'timm'; choose from: fastmim_vit, .*mmseg_vit"):
        find_format("timm")
