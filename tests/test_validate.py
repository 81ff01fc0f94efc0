"""Every bad value of a config gives one sentence, with the flag of the key in the mode of the command."""

import difflib

import pytest

from fastmim_jax.cli.commands import COMMANDS
from fastmim_jax.cli.parse import parse
from fastmim_jax.config import finetune_config, pretrain_config
from fastmim_jax.errors import UserError, nearest
from fastmim_jax.models.zoo import create_model
from fastmim_jax.saved_config import flatten
from fastmim_jax.validate.backbone import fitting_size
from fastmim_jax.validate.finetuning import check_finetuning
from fastmim_jax.validate.multi_scale import usual_layers
from fastmim_jax.validate.names import count, flag
from fastmim_jax.validate.pretraining import check_pretraining
from fastmim_jax.validate.training import check_no_decay
from fastmim_jax.validate.values import FINETUNE_RULES, PRETRAIN_RULES, RULES, check_values
from helpers.sweeps import sweep, thin

MODES = {"method": pretrain_config, "model": finetune_config}
KEYS = [(section, key) for section, default in MODES.items() for key in flatten(default())]
# Keys that both modes have are judged by one rule each: pre-training stands for both.
ONCE = [case for case in KEYS if case[0] == "method" or ("method", case[1]) not in KEYS]
FILES = {"method": ("pretrain", "configs/fastmim.py"), "model": ("finetune", "configs/finetune.py:vit_b16")}
# Any word is a name of one of these; whether it exists is known later.
FREE_TEXT = {"init", "data.path", "data.split", "data.eval_path", "data.eval_split"}
FREE_TEXT |= {"monitor.path", "monitor.masks"}
FREE_TEXT |= {"run.project"}
FREE_TEXT |= {f"{section}.backbone.name" for section in MODES}
WORDS = ("nonsense", "-7", "nan", "(1, 'a')", "(-1, -1)")
# Numbers, which only do not fit three channels, and a name.
ACCEPTED = {("data.mean", "(-1, -1)"), ("data.mean", "-7"), ("data.nodata", "-7")}
ACCEPTED |= {("optimizer.no_decay", word) for word in ("nonsense", "nan")}
OBJECTS = (
    object(),
    -7,
    float("nan"),
    float("inf"),
    [object()],
    ("a", 1),
    {},
    (),
    "nonsense",
    b"bytes",
    1.5,
    True,
)


# Numeric keys that accept 0 or -1, and what they mean.
ZERO = {
    "seed": "a seed",
    **dict.fromkeys(("data.mean", "data.value_range", "stages.start_epochs"), "a value like others"),
    "data.nodata": "a value like others",
    **dict.fromkeys(("data.max_bad_share", "data.eval_share", "schedule.warmup_epochs"), "none"),
    "method.decoder.depth": "only a norm and a linear layer",
    **dict.fromkeys(("method.partial.throw_ratio", "method.partial.thrown_weight"), "none"),
    "stages.windows": "chosen from the image size",
    **{f"optimizer.{key}": "none" for key in ("weight_decay", "clip_norm", "ema_decay", "betas")},
    **{f"optimizer.{key}": "a rate" for key in ("base_lr", "min_base_lr", "warmup_base_lr")},
    "schedule.steps": "epochs count",
    **{f"run.{key}_timeout_seconds": "no limit" for key in ("disk", "upload")},
    **{f"run.{key}": "never" for key in ("log_every", "checkpoint_every", "keep_every")},
    **{f"run.{key}": "never" for key in ("eval_every", "picture_every", "eval_epochs", "patience_epochs")},
    "run.baseline_images": "no probe",
    "run.workers": "none: read in this process",
    "run.max_worker_restarts": "none: the first death ends the run",
    **{f"{section}.backbone.{key}": "none" for section in MODES for key in ("layer_scale", "drop_path")},
    **{f"augment.{key}": "none" for key in ("magnitude", "magnitude_std", "mixup", "cutmix")},
    **{f"augment.{key}": "none" for key in ("random_erasing", "mix_probability", "mix_switch")},
    "augment.label_smoothing": "none",
}
MINUS_ONE = {
    **dict.fromkeys(("data.mean", "data.value_range", "data.nodata"), "a value like others"),
    "run.workers": "chosen from the number of cores",
}
ENORMOUS = (10**12, 1e300, -1e300, -(10**12), float("nan"), float("inf"), -float("inf"))


def _as_long(number):
    """Return the number itself, and tuples of it."""
    return [number, (number,), (number,) * 2, (number,) * 3]


@pytest.mark.parametrize("rules", [PRETRAIN_RULES, FINETUNE_RULES], ids=["pretrain", "finetune"])
def test_numbers_out_of_range_are_refused_and_zero_and_minus_one_mean_what_is_written(rules):
    for key, rule in rules.items():
        for number, meanings in ((0, ZERO), (-1, MINUS_ONE)):
            accepted = any(map(rule.accepts, _as_long(number)))
            assert accepted == (key in meanings), (key, number)
        for number in () if key == "data.nodata" else ENORMOUS:  # -3.4e38 is a usual one
            assert not any(map(rule.accepts, _as_long(number))), (key, number)


def test_every_key_has_a_rule():
    assert list(map(sorted, (PRETRAIN_RULES, FINETUNE_RULES))) == [
        sorted(flatten(f())) for f in MODES.values()
    ]


@pytest.mark.parametrize(
    "words", [WORDS[:1], pytest.param(WORDS[1:], marks=pytest.mark.slow)], ids=["word", "values"]
)
@pytest.mark.parametrize(("section", "key"), thin((case for case in KEYS if case[1] not in FREE_TEXT), 5))
def test_nonsense_on_the_command_line(section, key, words):
    command, file = FILES[section]
    for word in words:
        if (key, word) in ACCEPTED:
            continue
        with pytest.raises(UserError) as error:
            flags = [f"--config={file}", "--workdir=unused", f"--config.{key}={word}"]
            values, _ = parse(command, COMMANDS[command], flags)
            check_values(values.config)
        assert f"--config.{key}" in str(error.value) and "\n" not in str(error.value), (
            word,
            str(error.value),
        )


def _similarity(word, name):
    return difflib.SequenceMatcher(None, name.casefold(), word.casefold()).ratio()


CHOICES = {key: rule.names for rules in RULES.values() for key, rule in rules.items() if rule.names}


def test_a_mistyped_choice_is_answered_with_the_nearest_name_and_a_strange_one_with_none():
    """Every name with a letter left out, doubled, or in capitals."""
    assert len(CHOICES) > 20
    for key, names in CHOICES.items():
        for name in filter(None, names):
            typos = {name[:i] + name[i + 1 :] for i in range(len(name))} | {name + name[-1], name.upper()}
            for word in typos - set(names) - {""}:
                meant, most = nearest(word, names), max(_similarity(word, name) for name in names)
                assert bool(meant) == (most >= 0.6), (key, word, meant)
                assert not meant or _similarity(word, meant) == most, (key, word, meant)
        assert nearest("#?!", names) == ""


@pytest.mark.parametrize(
    ("word", "hint"),
    [("mea", "; did you mean --config.method.name=mae?"), ("#?!", "=NAME)"), (7, "=NAME)")],
)
def test_the_sentence_on_a_choice_ends_with_what_to_type(word, hint):
    config = pretrain_config()
    with config.ignore_type():
        config.method.name = word
    with pytest.raises(UserError) as error:
        check_values(config)
    assert str(error.value).endswith(hint)


@pytest.mark.slow
@pytest.mark.parametrize(("section", "key"), sweep(KEYS, ONCE))
def test_values_of_any_type_in_a_config_file(section, key):
    """Checked together with the other keys: refused with the flag of the key, or accepted."""
    refused = 0
    for value in OBJECTS:
        config = MODES[section]()
        if section == "model":
            config.model.backbone.name = "vit_b16"
        with config.ignore_type():
            config.update_from_flattened_dict({key: value})
        try:
            _check(config)
        except UserError as error:
            assert f"--config.{key}" in str(error), (value, str(error))
            assert "\n" not in str(error)
            refused += 1
    assert refused >= 5


def _check(config, devices=1, platform="cpu"):
    check = check_pretraining if "method" in config else check_finetuning
    check(config, platform=platform, devices=devices)


def _changed(section, changes):
    config = MODES[section]()
    if section == "model":
        config.model.backbone.name = "vit_b16"
    config.update_from_flattened_dict({key.replace("SECTION", section): x for key, x in changes.items()})
    return config


SWIN = {"SECTION.backbone.name": "swin_t"}
BOTH = [
    (
        {"SECTION.backbone.name": "vit_x16"},
        "'vit_x16'; choose from: vit_.*--config.SECTION.backbone.name=vit_",
    ),
    (
        {"SECTION.backbone.heads": 5},
        "does not divide 768 channels: type --config.SECTION.backbone.heads=4$",
    ),
    ({**SWIN, "SECTION.backbone.heads": (3, 5, 12, 24)}, r"backbone.heads='\(3, 4, 12, 24\)'$"),
    ({**SWIN, "SECTION.backbone.heads": 6}, "--config.SECTION.backbone.heads$"),
    ({**SWIN, "SECTION.backbone.depths": (2, 2)}, "--config.SECTION.backbone.depths$"),
    ({**SWIN, "SECTION.backbone.depth": 4}, "'swin_t' has no .*--config.SECTION.backbone.depth$"),
    ({"SECTION.backbone.depths": (2, 2, 6, 2)}, "--config.SECTION.backbone.depths$"),
    (
        {"SECTION.backbone.positions": "sine"},
        "'sine'; choose from: none, fixed, learned .*--config.SECTION",
    ),
    ({"SECTION.backbone.relative_positions": "yes"}, "choose from: none, shared, own .*--config.SECTION"),
    (
        {"SECTION.backbone.drop_path": 1.0},
        "at least 0 and below 1: type --config.SECTION.backbone.drop_path=0.1",
    ),
    (
        {"SECTION.backbone.width": 90, "SECTION.backbone.heads": 3},
        "multiple of 4 .*type --config.SECTION.backbone.width=88",
    ),
    ({"SECTION.kernel": "cudnn"}, "not cpu and bfloat16: type --config.SECTION.kernel=xla"),
    ({**SWIN, "SECTION.backbone.window": 5}, "SECTION.backbone.window is 5, which does not divide the"),
    (
        {"SECTION.backbone.name": "mixmim_b", "SECTION.backbone.windows": (7, 7)},
        r"expected 4 numbers: type --config.SECTION.backbone.windows='\(14",
    ),
    (
        {"SECTION.backbone.name": "cmt_ti", "SECTION.backbone.norm_groups": 7},
        "does not divide .* images of a micro-batch: type --config.SECTION.backbone.norm_groups=1",
    ),
    (
        {"data.image_size": (100, 128)},
        r"image_size is 100x128.*type --config.data.image_size='\(96, 128\)'",
    ),
    (
        {"data.mean": (0.5,)},
        r"mean has 1 value for 3 channels: give one per channel, or --config.data.mean='\(\)'",
    ),
    ({"data.crop_scale": (0.5, 0.2)}, r"ascending order: type --config.data.crop_scale='\("),
    ({"schedule.batch_size": 30, "schedule.accumulation": 4}, "type --config.schedule.batch_size=32$"),
]


@pytest.mark.parametrize("section", MODES)
@pytest.mark.parametrize(("changes", "message"), BOTH)
def test_backbones_and_data_that_cannot_work_in_either_mode(section, changes, message):
    changes = {"SECTION.backbone.name": "vit_b16", "data.image_size": (224, 224), **changes}
    if section == "method":
        stride = 16 if changes["SECTION.backbone.name"].startswith("vit") else 32
        changes = {"method.block_size": stride, **changes}
    with pytest.raises(UserError, match=message.replace("SECTION", section)):
        _check(_changed(section, changes))


@pytest.mark.parametrize("section", MODES)
def test_gradients_in_bfloat16_need_a_model_in_bfloat16(section):
    changes = {"SECTION.dtype": "float32", "optimizer.gradient_dtype": "bfloat16"}
    with pytest.raises(UserError, match="type --config.optimizer.gradient_dtype=float32"):
        _check(_changed(section, changes))
    _check(_changed(section, {**changes, "SECTION.dtype": "bfloat16"}))


@pytest.mark.parametrize("section", MODES)
def test_cudnn_learns_no_relative_positions(section):
    changes = {"SECTION.kernel": "cudnn", "SECTION.backbone.relative_positions": "own"}
    config = _changed(section, changes)
    with pytest.raises(UserError, match=f"relative positions: type --config.{section}.kernel=xla"):
        _check(config, platform="gpu")
    _check(_changed(section, {"SECTION.kernel": "cudnn"}), platform="gpu")


MAE = {"method.name": "mae"}
MIXMIM = {
    "method.name": "mixmim",
    "method.block_size": 32,
    "method.target": "pixel",
    "method.backbone.name": "mixmim_b",
    "data.image_size": (224, 224),
}
THROW = {"method.partial.throw_ratio": 0.5}
LOCAL = {
    "method.name": "localmim",
    "method.local_layers": (2, 4, 10, 12),
    "method.target_scales": (4, 8, 16, 32),
    "data.image_size": (224, 224),
}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method.block_size": 12}, "a multiple of 8: type --config.method.block_size=16"),
        ({"method.block_size": 4}, "a multiple of 8: type --config.method.block_size=16"),
        (
            {"method.decoder.width": 100},
            "which 3 heads do not divide: type --config.method.decoder.width=99",
        ),
        (
            {**MAE, "method.decoder.width": 90, "method.decoder.heads": 3},
            "type --config.method.decoder.width=88",
        ),
        (
            {**MAE, "method.block_size": 32},
            "but MAE masks cells of 16 pixels: type --config.method.block_size=16",
        ),
        (
            {**MAE, "method.backbone.name": "convnext_t"},
            "encodes visible tokens alone: type --config.method.b",
        ),
        ({**MAE, "method.backbone.relative_positions": "own"}, "vit_b16 without relative_positions"),
        (
            {**MIXMIM, "method.backbone.name": "convnext_t"},
            "two images of a mixture: type --config.method.b",
        ),
        ({**MIXMIM, "method.block_size": 64}, "but MixMIM mixes cells of 32 pixels"),
        (
            {**MIXMIM, "method.groups": 16, "schedule.batch_size": 48},
            "16 groups of pairs: type .*batch_size=64",
        ),
        ({**MIXMIM, "method.mask_ratio": 0.01}, "masks 0 of 49 blocks"),
        (
            {"method.mask_grid": 6},
            "6, which does not divide 8 x 8 blocks: type --config.method.mask_grid=2",
        ),
        (
            {"method.backbone.class_tokens": 8, "method.backbone.relative_positions": "own"},
            "relative positions are of one cls token: type --config.method.backbone.class_tokens=1",
        ),
        (
            {"method.backbone.class_tokens": 8, "method.backbone.class_token": False},
            "class_tokens is 8 and class_token False: type --config.method.backbone.class_tokens=1",
        ),
        (
            {**MAE, **THROW, "method.name": "crossmae"},
            "CrossMAE decodes random tokens and fills in none: type --config.method.partial.sampler=random",
        ),
        ({**MAE, "method.name": "crossmae", "method.decoder.depth": 0}, "type .*decoder.depth=12"),
        (
            {**MIXMIM, "method.fuse_layers": (1, 2)},
            "mixmim over mixmim_b has no layers of one grid .*type --config.method.fuse_layers='..'",
        ),
        ({"method.local_layers": (2, 12)}, "last layer: type .*local_layers='..', or .*name=localmim"),
        (
            {**LOCAL, "method.local_layers": ()},
            r"several layers: type .*local_layers='\(2, 4, 10, 12\)' .*scales='\(4, 8, 16, 32\)'",
        ),
        (
            {**LOCAL, "method.local_layers": (2, 4, 10, 14)},
            r"the last one, 12 .block 12.: type --config.method.local_layers='\(2, 4, 10, 12\)'",
        ),
        (
            {**LOCAL, "method.backbone.depth": 32},
            r"the last one, 32 .*type --config.method.local_layers='\(2, 4, 30, 32\)' .*scales='\(4, 8, ",
        ),
        ({**LOCAL, "method.target_scales": (4, 8)}, "has 4 layers and .* 2 scales, expected one scale"),
        (
            {**LOCAL, "method.target_scales": (4, 8, 16, 36)},
            r"multiples of the tokens' 16 pixels: type .*target_scales='\(4, 8, 16, 32\)'",
        ),
        (
            {**LOCAL, "method.backbone.name": "swin_t", "method.local_layers": (1, 4)}
            | {"method.block_size": 32, "method.target_scales": (8, 2), "method.decoder.width": 72},
            "decoder.width is 72, which cannot be halved for squares of 2 pixels .*decoder.width=64",
        ),
        (
            {**LOCAL, "data.image_size": (208, 224)},
            r"cut into squares of 32 pixels: type --config.data.image_size='\(192, 224\)'",
        ),
        ({**LOCAL, **THROW}, "decode all tokens: type --config.method.partial.throw_ratio=0"),
        (
            {**LOCAL, "method.block_size": 32},
            "LocalMIM masks cells of 16 pixels: type --config.method.block_size=16",
        ),
        ({"method.target_scales": (32,)}, r"16 pixels is needed: type .*target_scales='\(16, 32\)'"),
        ({"method.name": "simmim", "method.target_scales": (8,)}, "other weights: type .*scales='..', or"),
        (
            {"method.fuse_layers": (3, 1)},
            r"the last one, 12: type --config.method.fuse_layers='\(1, 3, 12\)'",
        ),
        ({"method.name": "simmim", **THROW}, "no decoder: type --config.method.partial.throw_ratio=0"),
        (
            {"method.name": "simmim", "method.backbone.name": "swin_t", "method.block_size": 6},
            "SimMIM masks cells of 4 pixels: type --config.method.block_size=32",
        ),
        ({**THROW, "method.decoder.depth": 0}, "depth is 0, .*type --config.method.decoder.depth=1"),
        (
            {**THROW, "method.block_size": 8},
            "block_size is 8, but partial reconstruction throws cells of 16",
        ),
        (
            {**MAE, "method.partial.throw_ratio": 0.8},
            "throws 51 of 48 masked tokens .*at most --config.method.partial.throw_ratio=0.73",
        ),
        (
            {"stages.image_sizes": (64, 96), "stages.batch_sizes": (8, 8, 8)},
            "image_sizes has 2, .* has 3 entr",
        ),
        (
            {"stages.image_sizes": (64, 100)},
            r"image_sizes\[1\] is 100x100.*entry 2 of --config.stages.image_s",
        ),
        ({"stages.image_sizes": (64, 96), "stages.windows": (4, 5)}, "--config.stages.windows$"),
        ({"data.crop_on": "gpu"}, "choose from: host, device .type --config.data.crop_on=NAME"),
        ({"data.views_per_image": 24}, "64: type --config.data.views_per_image=8"),
        (
            {"data.views_per_image": 8, "data.views": "masks"},
            "8 views with 16 visible blocks each .*type --config.data.views_per_image=4,",
        ),
        ({**MIXMIM, "data.views": "masks"}, "but MixMIM's masks .*type --config.data.views=crops"),
        (
            {"stages.batch_sizes": (64, 30)},
            r"batch_sizes\[1\] is 30.*set entry 2 of --config.stages.batch_sizes to 32",
        ),
        (
            {"stages.image_sizes": (64, 96), "stages.start_epochs": (5.0, 10.0)},
            r"ascending epochs from 0: type --config.stages.start_epochs='\(0.0, 400.0\)'",
        ),
    ],
)
def test_pretraining_that_cannot_work(changes, message):
    with pytest.raises(UserError, match=message):
        _check(_changed("method", {"schedule.batch_size": 64, **changes}), devices=4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.pooling": "mean"}, "choose from: pool_norm, norm_pool.*--config.model.pooling"),
        (
            {"model.pooling": "cls", "model.backbone.name": "swin_t"},
            "has no cls token: type --config.model.pooling=norm_pool",
        ),
        (
            {"model.backbone.position_grid": (14,)},
            r"type --config.model.backbone.position_grid='\(14, 14\)'",
        ),
        ({"augment.mix_groups": 6, "schedule.batch_size": 16}, "type --config.augment.mix_groups=2"),
        ({"augment.random_erasing": 1.5}, "at most 1: type --config.augment.random_erasing=0.25"),
        ({"augment.repeated_augmentation": 0}, "at least 1: type --config.augment.repeated_augmentation=1"),
        ({"data.eval_resize": 200}, "at least the 224 pixels .*type --config.data.eval_resize=224"),
        ({"run.mesh_fsdp": 3}, "does not divide 4 devices: type --config.run.mesh_fsdp=1"),
    ],
)
def test_fine_tuning_that_cannot_work(changes, message):
    with pytest.raises(UserError, match=message):
        _check(_changed("model", {"schedule.batch_size": 64, **changes}), devices=4)


@pytest.mark.parametrize("name", ["vit_b16", "vit_h14", "vit_ti4", "swin_t", "mixmim_b"])
def test_the_layers_and_scales_that_are_suggested_for_localmim_work(name):
    encoder = create_model(name)
    layers, scales = usual_layers(encoder)
    config = pretrain_config()
    config.data.image_size = (224, 224)
    config.method.backbone.name = name
    config.method.update(name="localmim", block_size=encoder.stride, local_layers=layers)
    config.method.target_scales = scales
    _check(config)


def test_names_of_parameters_without_decay():
    check_no_decay(("mask_token",), ("bias", "mask_token"))
    with pytest.raises(
        UserError, match=r"no_decay has cls, .*choose from: bias, kernel \(type --config.optim"
    ):
        check_no_decay(("cls", "bias"), ("kernel", "bias"))


def test_flags_are_quoted_for_a_shell_and_counts_agree_with_their_noun():
    assert flag("data.mean", [0.5, 0.5]) == "--config.data.mean='(0.5, 0.5)'"
    assert flag("schedule.batch_size", 64) == "--config.schedule.batch_size=64"
    assert [count(n, "image") for n in (1, 2, 1000)] == ["1 image", "2 images", "1,000 images"]
    assert count(2, "class", "classes") == "2 classes"


def test_a_fitting_size_is_the_nearest_multiple_and_never_zero():
    assert fitting_size((100, 128), 32) == (96, 128) and fitting_size((3, 50), 16) == (16, 48)
