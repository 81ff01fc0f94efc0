"""A backbone is found under any prefix, beside any other arrays."""

import pytest

from fastmim_jax.errors import UserError
from fastmim_jax.export.formats import FORMATS
from fastmim_jax.export.formats.names import published_name
from fastmim_jax.export.formats.prefixes import EMBEDDINGS, choose_prefix
from helpers.formats import names_of
from helpers.sweeps import thin

VIT = [name for name in names_of(FORMATS["timm_vit"]) if "fc_norm" not in name and ".ls" not in name]
BARE = [name for name in VIT if not name.startswith("head")]


def under(prefix, names):
    return [prefix + name for name in names]


@pytest.mark.parametrize("fmt", thin(FORMATS.values(), 9), ids=lambda fmt: fmt.name)
def test_all_arrays_of_a_format_are_taken(fmt):
    names = names_of(fmt)
    assert choose_prefix(names).prefix == "" and not choose_prefix(names).outside
    assert any(published_name(path, fmt.name) != path for path in EMBEDDINGS)


@pytest.mark.parametrize("fmt", thin(FORMATS.values(), 9), ids=lambda fmt: fmt.name)
def test_every_format_is_found_under_a_prefix(fmt):
    inside = [name.replace("stem_conv0", "stem_conv1") for name in names_of(fmt)]  # CMT counts from 1
    names = [*under("learner.net.", inside), "learner.queue", "criterion.weight"]
    choice = choose_prefix(names)
    assert choice.prefix == "learner.net." and set(choice.outside) == {"learner.queue", "criterion.weight"}


@pytest.mark.parametrize(
    ("names", "prefix", "others"),
    [
        ([*under("model.", VIT), "criterion.weight"], "model.", ()),
        ([*under("model.encoder.", BARE), *under("model.head.", ["weight", "bias"])], "model.encoder.", ()),
        (under("encoder.", VIT), "encoder.", ()),
        ([*under("backbone.", BARE), "head.mlp.0.weight"], "backbone.", ()),
        (
            [
                *under("module.momentum_encoder.", BARE),
                *under("module.base_encoder.", BARE),
                "module.queue",
            ],
            "module.base_encoder.",
            ("module.momentum_encoder.",),
        ),
        (
            [*under("student.backbone.", VIT), *under("teacher.backbone.", BARE)],
            "teacher.backbone.",
            ("student.backbone.",),
        ),
        # Words of a prefix count, not parts of words: "semantic" holds "ema".
        ([*under("semantic_net.", BARE), *under("plain.", BARE)], "semantic_net.", ("plain.",)),
        ([*under("model_ema.", BARE), *under("model.", BARE)], "model.", ("model_ema.",)),
        ([*under("encoder_k.", BARE), *under("encoder_q.", BARE)], "encoder_q.", ("encoder_k.",)),
        ([*under("online.", BARE), *under("target.", BARE)], "online.", ("target.",)),
        ([*under("a.", BARE), *under("b.", BARE)], "a.", ("b.",)),
        # A Swin alone under the name that methods give it is no method without its decoder.
        (under("encoder.", names_of(FORMATS["swin_classifier"])[:-2]), "encoder.", ()),
        ([*names_of(FORMATS["mmpretrain_vit"]), "ema.decay"], "", ()),
    ],
)
def test_the_prefix_with_the_most_known_names_is_taken(names, prefix, others):
    choice = choose_prefix(names)
    assert (choice.prefix, choice.others, choice.given) == (prefix, others, False)
    assert prefix == "" or set(choice.outside) == {x for x in names if not x.startswith(prefix)}


def test_a_given_prefix_may_be_its_end():
    names = [*under("m.base_encoder.", BARE), *under("m.momentum_encoder.", BARE), *under("x.inner.", BARE)]
    for given in ("momentum_encoder", "m.momentum_encoder", "m.momentum_encoder."):
        choice = choose_prefix(names, given)
        assert choice.prefix == "m.momentum_encoder." and choice.given
        assert choice.others == ("m.base_encoder.", "x.inner.")
    assert choose_prefix(names, "").prefix == ""
    with pytest.raises(UserError, match=r"no name starts with 'teacher\.': choose --prefix= from: m\.b"):
        choose_prefix(names, "teacher")
    with pytest.raises(UserError, match="several prefixes of names end in 'blocks.0.': choose --prefix="):
        choose_prefix(names, "blocks.0")
    with pytest.raises(UserError, match="none, as no name has a dot"):
        choose_prefix(["a", "b"], "c")


def test_names_of_nothing_known_are_all_taken():
    assert choose_prefix(["conv1.weight", "conv2.weight"]).prefix == ""
