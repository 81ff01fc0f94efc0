"""The README's path: a published file is converted, fine-tuned and exported to other libraries."""

import numpy as np
import pytest

from fastmim_jax.__main__ import main
from fastmim_jax.config import pretrain_config
from fastmim_jax.export.bundle import ModelBundle, open_bundle
from fastmim_jax.export.extras import import_timm, import_transformers
from fastmim_jax.export.formats.names import to_ours, unflatten_variables
from fastmim_jax.export.to_torch import to_torch
from fastmim_jax.export.verify import layer_outputs, sample_images
from helpers import published, small

pytestmark = [pytest.mark.slow, pytest.mark.torch, pytest.mark.usefixtures("one_device")]

HEADS = ("--set=method.backbone.heads=3", "--set=method.decoder.heads=2")


def call(*words):
    """Run a command of `fastmim`; it must succeed."""
    main([str(word) for word in words])


@pytest.fixture(scope="module")
def torch():
    """PyTorch, imported when a test needs it: two seconds that collection need not take."""
    return pytest.importorskip("torch", reason="needs the torch extra: pip install '.[torch]'")


@pytest.fixture(scope="module")
def paths(torch, tmp_path_factory):
    """{name: path} of the results of all steps."""
    folder = tmp_path_factory.mktemp("user")
    data = small.write_classes(folder / "labelled")
    torch.save({"model": published_mae(torch), "epoch": 799}, folder / "mae.pth")
    call("convert", folder / "mae.pth", folder / "mae", *HEADS)
    call(
        *("finetune", "--config=configs/finetune.py", f"--config.init={folder / 'mae'}"),
        *(
            f"--config.data.path={data}",
            "--config.data.image_size=(64, 64)",
            "--config.model.dtype=float32",
        ),
        *("--config.schedule.batch_size=16", "--config.schedule.steps=1", "--config.run.workers=0"),
        *("--config.augment.mixup=0.0", "--config.augment.cutmix=0.0", f"--workdir={folder / 'tuned'}"),
    )
    call("convert", folder / "tuned", folder / "timm", "--to=timm")
    call("convert", folder / "mae", folder / "hf", "--to=hf")
    return {path.name: path for path in folder.iterdir()}


def published_mae(torch):
    """State dict of a small MAE with its tables of positions, as the published training saves it."""
    cases, _ = published.load("mae_vit")
    case, config = cases["norm1"], pretrain_config()
    config.data.image_size = (64, 64)
    network = small.published_mae(case)
    config.method.update(name="mae", target="pixel", block_size=16, dtype="float32")
    config.method.backbone.update(name="vit_b16", width=48, depth=2, heads=3, mlp_ratio=2.0)
    config.method.decoder.update(width=network.decoder["width"], depth=1, heads=2, mlp_ratio=2.0)
    variables = to_ours(published.weights(cases, "norm1"), "mae_vit")
    state = to_torch(ModelBundle(config, unflatten_variables({}) | variables), "official").state
    return {name: torch.from_numpy(np.array(x)) for name, x in state.items()}


def test_the_fine_tuned_classifier_opens_in_timm(torch, paths):
    timm, model = import_timm(), open_bundle(paths["tuned"])
    opened = timm.create_model(f"local-dir:{paths['timm']}", pretrained=True).eval()
    images = sample_images(model.image_shape)
    with torch.inference_mode():
        logits = opened(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()
    expected = layer_outputs(model, images)["logits"]
    # 1e-4 as agreed; observed: below 1e-6 of the largest value.
    np.testing.assert_allclose(logits, expected, atol=1e-4 * np.abs(expected).max())
    assert opened.pretrained_cfg["label_names"] == [f"class{index}" for index in range(4)]
    call("verify", paths["tuned"], paths["timm"])


def test_the_pretrained_model_opens_in_transformers(paths):
    transformers = import_transformers()
    opened = transformers.AutoModelForPreTraining.from_pretrained(paths["hf"])
    assert type(opened).__name__ == "ViTMAEForPreTraining"
    assert opened.config.decoder_num_attention_heads == 2 and opened.config.num_attention_heads == 3
    call("verify", paths["mae"], paths["hf"])


@pytest.mark.parametrize("name", ["mae", "tuned"])
def test_the_backbone_alone_opens_in_both(paths, name, tmp_path):
    for library in ("timm", "hf"):
        call("convert", paths[name], tmp_path / library, f"--to={library}", "--encoder_only")
        call("verify", paths[name], tmp_path / library) if name == "mae" else None
    alone = import_timm().create_model(f"local-dir:{tmp_path / 'timm'}", pretrained=True)
    assert alone.num_classes == 0
    opened = import_transformers().AutoModel.from_pretrained(tmp_path / "hf", add_pooling_layer=False)
    assert type(opened).__name__ == "ViTModel"
    weight = open_bundle(paths[name]).variables["params"]["encoder"]["patch_embed"]["bias"]
    for found in (alone.patch_embed.proj.bias, opened.embeddings.patch_embeddings.projection.bias):
        np.testing.assert_array_equal(found.detach().numpy(), weight)


def test_a_round_trip_is_exact_to_the_bit(torch, paths, tmp_path):
    before = torch.load(paths["mae.pth"])["model"]
    call("convert", paths["hf"], tmp_path / "mae")
    call("convert", tmp_path / "mae", tmp_path / "mae.pth")
    after = torch.load(tmp_path / "mae.pth")["model"]
    assert before.keys() == after.keys()
    for name, value in before.items():
        assert torch.equal(value, after[name]), name


def test_the_card_names_the_starting_weights(paths):
    card = (paths["timm"] / "README.md").read_text()
    assert "local-dir:" in card and "mae.pth`, a file in the format `mae_vit`" in card
    assert (
        "CC-BY-NC 4.0" in card
        and "for 1 step, with a batch size of 16" in card
        and '"optimizer.layer_decay"' in card
    )
    assert "Converted by fastmim_jax" in (paths["hf"] / "README.md").read_text()
