"""transformers' models against ours: the same weights give the same outputs in both directions."""

import json
import re
from functools import cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from fastmim_jax.errors import UserError
from fastmim_jax.export.extras import import_transformers
from fastmim_jax.export.formats import FORMATS
from fastmim_jax.export.formats.huggingface.describe import describe
from fastmim_jax.export.formats.huggingface.reference import build_reference, reference_outputs
from fastmim_jax.export.formats.library import MAESpec, ModelSpec
from fastmim_jax.export.formats.names import to_ours, to_theirs
from fastmim_jax.mim.mae import MAE
from fastmim_jax.mim.targets.pixels import Pixels
from fastmim_jax.models.base import EncoderOutput
from fastmim_jax.models.convnext import ConvNeXt
from fastmim_jax.models.heads import Classifier
from fastmim_jax.models.positions import resampled_positions
from fastmim_jax.models.pvt_v2 import PVTv2
from fastmim_jax.models.swin import Swin
from fastmim_jax.models.vit import ViT
from fastmim_jax.models.zoo import create_model

pytestmark = [pytest.mark.slow, pytest.mark.torch]

SIZE, BATCH, RATIO = (64, 64), 2, 0.6
DECODER = dict(width=16, depth=2, heads=4, mlp_ratio=2.0)
# Both sides sum float32 numbers in different orders: the largest difference is some 5e-7 of the largest
# number, and twice that after 20 blocks. A wrong order of arrays gives more than 1e-1.
TOLERANCE = 1e-5
TOLERANCE_OF_EPSILON = (
    1e-4  # PVT v2 as published has two epsilons, 9e-6 apart, transformers one: 4e-5 is observed
)


class Case(NamedTuple):
    encoder: object
    pooling: str | None = None
    size: tuple = SIZE
    channels: int = 3

    @property
    def classes(self):
        return tuple("abcde") if self.pooling else ()

    def describe(self):
        return describe(ModelSpec(self.encoder, self.size, self.channels, self.pooling, self.classes))

    def images(self):
        shape = (BATCH, *self.size, self.channels)
        return np.random.default_rng(0).normal(size=shape).astype(np.float32)


VIT = ViT(patch_size=16, width=32, depth=3, heads=2, mlp_ratio=3.0, positions="learned")
SIZES = dict(depths=(1, 2, 2, 1), heads=(1, 2, 2, 4))
SWIN = Swin(**SIZES, width=16, window=2, mlp_ratio=2.0)
PVT = PVTv2(**SIZES, widths=(8, 16, 24, 32), mlp_ratios=(2, 3, 2, 2), epsilon=1e-5)  # one for all norms
CONVNEXT = ConvNeXt(widths=(8, 16, 24, 32), depths=(1, 2, 1, 1))
CASES = {
    "hf_vit": Case(VIT, "cls"),
    "hf_vit_model": Case(VIT.clone(patch_size=8), size=(32, 32), channels=1),
    "hf_pixio_model": Case(VIT.clone(class_tokens=3)),
    "hf_swin": Case(SWIN, "pool"),
    "hf_swin_model": Case(SWIN.clone(positions="learned", window=None), size=(128, 128)),
    "hf_pvt_v2": Case(PVT, "pool"),
    "hf_pvt_v2_model": Case(PVT.clone(attention="pooled"), size=(96, 96)),
    "hf_convnext": Case(CONVNEXT, "pool_norm"),
    "hf_convnext_model": Case(CONVNEXT),
}
of_every_format = pytest.mark.parametrize("name", CASES)


@pytest.fixture(scope="module")
def hf():
    """The module transformers."""
    for package in ("torch", "transformers"):
        pytest.importorskip(package, reason="needs the torch extra: pip install '.[torch]'")
    transformers = import_transformers()
    transformers.utils.logging.disable_progress_bar()
    return transformers


def drawn(random, name, shape, fan_in):
    """Random weights that preserve the scale of activations; others far from their initial values."""
    x = random.standard_normal(shape).astype(np.float32)
    if fan_in:
        return x / np.float32(fan_in**0.5)
    return 1 + 0.3 * x if name.endswith(("scale", "norm.weight")) else 0.3 * x


def randomised(model):
    """Their model with random parameters, except for the fixed tables of MAE."""
    import torch

    random = np.random.default_rng(1)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            fan_in = parameter[0].numel() if parameter.ndim in (2, 4) and "table" not in name else None
            if "norm" in name and name.endswith("weight"):
                name = "norm.weight"
            x = drawn(random, name, tuple(parameter.shape), fan_in)
            parameter.data = torch.from_numpy(x)
    return model


def arrays_of(model):
    return {name: x.numpy() for name, x in model.state_dict().items()}


def write(state, description, folder):
    from safetensors.numpy import save_file

    state = {name: np.ascontiguousarray(x) for name, x in state.items()}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(description))


def our_variables(module, *inputs):
    """Random variables of a module."""
    keys = {"params": jax.random.key(0), "mask": jax.random.key(1)}
    shapes = flatten_dict(jax.eval_shape(module.init, keys, *inputs)["params"], sep="/")
    random = np.random.default_rng(2)
    arrays = {
        path: drawn(random, path, x.shape, np.prod(x.shape[:-1]) if path.endswith("kernel") else None)
        for path, x in shapes.items()
    }
    return {"params": unflatten_dict(arrays, sep="/")}


def network(case):
    return Classifier(case.encoder, len(case.classes), case.pooling) if case.pooling else case.encoder


def random_variables(case):
    variables = our_variables(network(case), case.images())
    return variables if case.pooling else {"params": {"encoder": variables["params"]}}


@cache
def forward(name):
    """(variables, images) -> the same layers as `reference_outputs`, by our model."""
    case = CASES[name]

    @jax.jit
    def run(variables, images):
        params = variables["params"]
        outputs = case.encoder.apply({"params": params["encoder"]}, images, method=outputs_of(case))
        found = {key: x.tokens for key, x in zip(case.encoder.layer_names, outputs, strict=True)}
        if isinstance(case.encoder, ViT):
            found["cls"] = outputs[-1].cls
        if case.pooling:
            found["logits"] = network(case).apply({"params": params}, images)
        return found

    return run


def outputs_of(case):
    if case.pooling != "pool_norm":
        return "outputs"
    # The norm follows the mean, so the grids are compared without it.
    return lambda encoder, images: [
        EncoderOutput(x, x[:, :0]) for x in encoder._stage_outputs(encoder.embed(images))
    ]


def assert_close(found, expected, tolerance=TOLERANCE):
    assert set(found) == set(expected)
    for name, x in expected.items():
        assert found[name].shape == x.shape, name
        assert np.abs(found[name] - x).max() < tolerance * np.abs(x).max(), name


def assert_same_bits(found, expected):
    assert set(found) == set(expected)
    for name, x in expected.items():
        np.testing.assert_array_equal(found[name], x, err_msg=name, strict=True)


def both_spellings(model, name, folder):
    """Convert what `save_pretrained` writes; check against state_dict() and the way back."""
    from safetensors.numpy import load_file

    model.save_pretrained(folder)
    written = load_file(folder / "model.safetensors")
    ours = to_ours(written, name)
    # 5.23 writes names of MAE's decoder blocks that neither transformers 4 nor files on the hub have.
    in_4 = {key.replace("decoder_encoder.layer.", "decoder_layers."): x for key, x in written.items()}
    if name == "hf_pixio_model":  # and ViT's names of its MLPs
        names = {"intermediate": "mlp.fc1", "output": "mlp.fc2"}
        mlp = re.compile(r"(layer\.\d+)\.(intermediate|output)\.dense")
        in_4 = {mlp.sub(lambda m: f"{m[1]}.{names[m[2]]}", key): x for key, x in in_4.items()}
    assert_same_bits(to_theirs(ours, name), in_4)
    of_state_dict = to_ours(arrays_of(model), name)
    assert_same_bits(flatten_dict(of_state_dict, sep="/"), flatten_dict(ours, sep="/"))
    return ours


@of_every_format
def test_their_models_have_equal_outputs_in_ours(hf, name, tmp_path):
    case = CASES[name]
    model = randomised(build_reference(case.describe()))
    ours = both_spellings(model, name, tmp_path)
    assert_close(reference_outputs(model, case.images()), forward(name)(ours, case.images()))


@of_every_format
def test_our_models_open_in_transformers(hf, name, tmp_path):
    case = CASES[name]
    ours, description = random_variables(case), case.describe()
    state = to_theirs(ours, name)
    expected = forward(name)(ours, case.images())
    assert_close(reference_outputs(build_reference(description, state), case.images()), expected)

    for buffers in FORMATS[name].buffers:
        state |= buffers(state, case.size)
    write(state, description, tmp_path)
    opener = hf.AutoModelForImageClassification if case.pooling else hf.AutoModel
    model, report = opener.from_pretrained(tmp_path, output_loading_info=True)
    # A bare ViT of transformers has an untrained pooler.
    missing = {"pooler.dense.weight", "pooler.dense.bias"} if name == "hf_vit_model" else set()
    assert (set(report["missing_keys"]), set(report["unexpected_keys"])) == (missing, set())
    assert_close(reference_outputs(model, case.images()), expected)


def mae():
    encoder = VIT.clone(positions="fixed")
    return MAE(encoder=encoder, target=Pixels(), block_size=16, mask_ratio=RATIO, decoder=DECODER)


def noise_of(shape):
    return np.random.default_rng(3).random(shape).astype(np.float32)


@pytest.fixture(scope="module")
def reconstruct():
    """(variables, images, noise) -> prediction, mask and loss of our MAE."""

    @jax.jit
    def run(variables, images, noise):
        out = mae().apply(variables, images, noise)
        return {"prediction": out.prediction, "mask": out.mask, "loss": out.loss}

    return run


def described_mae(**options):
    return describe(ModelSpec(VIT, SIZE, mae=MAESpec(DECODER, RATIO, **options)))


def part(found, *names):
    return {name: found[name] for name in names}


def with_tables(variables):
    """The variables with the fixed tables, which files of an MAE hold too."""
    grid = [side // 16 for side in SIZE]
    tables = {
        module: {
            "pos_embed": resampled_positions(*grid, width),
            "pos_embed_cls": np.zeros((1, width), np.float32),
        }
        for module, width in (("encoder", VIT.width), ("decoder", DECODER["width"]))
    }
    params = dict(variables["params"])
    for module, table in tables.items():
        params[module] = {**params[module], "position": table}
    return {"params": params}


def with_published_tables(model):
    """Their MAE with the positions of published files; 5.23 initialises them with zeros."""
    import torch

    for table in (model.vit.embeddings.position_embeddings, model.decoder.decoder_pos_embed):
        _, count, width = table.shape
        side = round((count - 1) ** 0.5)
        table.data[0, 1:] = torch.from_numpy(resampled_positions(side, side, width).reshape(-1, width))
    return model


def test_their_mae_predicts_the_same_as_ours(hf, reconstruct, tmp_path):
    model = with_published_tables(randomised(build_reference(described_mae())))
    ours = both_spellings(model, "hf_vit_mae", tmp_path)
    images, noise = Case(VIT).images(), noise_of((BATCH, 16))
    found = reference_outputs(model, images, noise=noise)
    assert_close(part(found, "prediction", "mask", "loss"), reconstruct(ours, images, noise))
    outputs = VIT.apply({"params": ours["params"]["encoder"]}, jnp.asarray(images), method="outputs")
    assert_close(
        part(found, "block 1", "block 3", "cls"),
        {"block 1": outputs[0].tokens, "block 3": outputs[2].tokens, "cls": outputs[2].prefix[:, 0]},
    )
    assert model.config.mask_ratio == RATIO


def test_our_mae_opens_in_transformers(hf, reconstruct, tmp_path):
    images, noise = Case(VIT).images(), noise_of((BATCH, 16))
    ours = our_variables(mae(), images)
    state = to_theirs(with_tables(ours), "hf_vit_mae")
    expected = reconstruct(ours, images, noise)
    write(state, described_mae(), tmp_path)
    opened, report = hf.AutoModelForPreTraining.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    for model in (opened, build_reference(described_mae(), state)):
        assert_close(part(reference_outputs(model, images, noise), *expected), expected)
    # A setting that the arrays do not hold must affect the loss.
    other = build_reference(described_mae(normalize_target=False), state)
    assert abs(reference_outputs(other, images, noise)["loss"] / expected["loss"] - 1) > 1e-2

    backbone, report = hf.AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"] and type(backbone).__name__ == "ViTMAEModel"
    assert_close(reference_outputs(backbone, images), reference_outputs(model, images))


def test_a_vit_takes_non_square_images(hf):
    case = Case(VIT, "cls", size=(32, 64))
    ours = random_variables(case)
    model = build_reference(case.describe(), to_theirs(ours, "hf_vit"))
    found = reference_outputs(model, case.images())
    assert found["block 1"].shape == (BATCH, 2, 4, 32)
    assert_close(part(found, "logits"), {"logits": network(case).apply(ours, jnp.asarray(case.images()))})


def test_a_state_dict_of_another_model_is_refused(hf):
    case = CASES["hf_pvt_v2"]
    state = to_theirs(random_variables(case), "hf_pvt_v2")
    missing = {name: x for name, x in state.items() if name != "classifier.bias"}
    with pytest.raises(UserError, match="PvtV2ForImageClassification: classifier.bias missing"):
        build_reference(case.describe(), missing)
    with pytest.raises(UserError, match="surprise unexpected"):
        build_reference(case.describe(), {**state, "surprise": np.zeros(1, np.float32)})
    with pytest.raises(UserError, match="classifier.bias of another shape"):
        build_reference(case.describe(), {**state, "classifier.bias": np.zeros(3, np.float32)})


@pytest.mark.exhaustive
def test_real_size_of_pvt_v2(hf):
    case = Case(create_model("pvt_v2_b2", layers="scanned"), size=(224, 224))
    model = build_reference(case.describe())
    ours = to_ours(arrays_of(model), "hf_pvt_v2_model")
    images = case.images()[:1]
    run = jax.jit(lambda params, images: case.encoder.apply({"params": params}, images).tokens)
    expected = run(ours["params"]["encoder"], images)
    assert_close(
        part(reference_outputs(model, images), "stage 4"), {"stage 4": expected}, TOLERANCE_OF_EPSILON
    )


@pytest.mark.exhaustive
def test_real_size_of_mae(hf):
    """ViT-B/16 with the published decoder, at 224 pixels."""
    encoder = create_model("vit_b16", layers="scanned")
    decoder = dict(width=512, depth=8, heads=16)
    model = with_published_tables(
        build_reference(describe(ModelSpec(encoder, (224, 224), mae=MAESpec(decoder))))
    )
    ours = to_ours(arrays_of(model), "hf_vit_mae")
    images, noise = Case(encoder, size=(224, 224)).images()[:1], noise_of((1, 196))
    options = dict(block_size=16, mask_ratio=0.75, decoder=dict(decoder, layers="scanned"))
    method = MAE(encoder=encoder, target=Pixels(), **options)
    out = jax.jit(method.apply)(ours, images, noise)
    expected = {"prediction": out.prediction, "mask": out.mask, "loss": out.loss}
    found = reference_outputs(model, images, noise)
    assert_close(part(found, *expected), expected)
    assert found["mask"].sum() == 147
