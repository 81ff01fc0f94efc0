"""Build methods, backbones, classifiers and image readers, each from its section of a config."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from ml_collections import ConfigDict

from fastmim_jax.data.cpus import cpu_share, pick_workers
from fastmim_jax.data.device import channel_statistics
from fastmim_jax.data.image_reader import ImageReader
from fastmim_jax.data.limits import DecodeRules
from fastmim_jax.data.planes import fits_planes
from fastmim_jax.data.records.manifest import Manifest
from fastmim_jax.mim.crossmae import CrossMAE
from fastmim_jax.mim.fastmim import FastMIM
from fastmim_jax.mim.fusion import LayerFusion
from fastmim_jax.mim.localmim import LocalMIM
from fastmim_jax.mim.mae import MAE
from fastmim_jax.mim.method import Method
from fastmim_jax.mim.mixmim import MixMIM
from fastmim_jax.mim.partial import PartialReconstruction, decode_all
from fastmim_jax.mim.simmim import SimMIM
from fastmim_jax.mim.targets import TARGETS, Target
from fastmim_jax.mim.targets.multi_scale import MultiScale
from fastmim_jax.models.base import Backbone
from fastmim_jax.models.dense.heads import HEADS
from fastmim_jax.models.dense.segmenter import Segmenter
from fastmim_jax.models.heads import POOLINGS, Classifier
from fastmim_jax.models.zoo import backbone_fields, create_model

METHODS = {
    "crossmae": CrossMAE,
    "fastmim": FastMIM,
    "localmim": LocalMIM,
    "mae": MAE,
    "mixmim": MixMIM,
    "simmim": SimMIM,
}


def create_method(method: ConfigDict) -> Method:
    """Return the pre-training method of `config.method`.

    `fastmim_jax.validate` judges a config; here nothing is checked but names.

    Raises:
      ValueError: an unknown name or size.

    >>> from fastmim_jax.config import pretrain_config
    >>> config = pretrain_config().method
    >>> config.backbone.update(name="vit_ti16", depth=2)
    >>> method = create_method(config)
    >>> type(method).__name__, method.noise_shape((2, 128, 128, 3)), method.num_masked(64)
    ('FastMIM', (2, 64), 48)
    """
    kind = _find("method", method.name, METHODS)
    options = dict(
        encoder=create_backbone(method),
        target=_target(method),
        block_size=method.block_size,
        mask_ratio=method.mask_ratio,
        mask_noise=method.mask_noise,
        mask_grid=method.mask_grid,
        decoder=dict(method.decoder, layers=method.layers, **_compute(method)),
        reconstruct=PartialReconstruction(**method.partial) if method.partial.throw_ratio else decode_all,
        groups=method.groups,
        throw_ratio=method.partial.throw_ratio,
        feature_maps=method.feature_maps,
        fuse=_fusion(method),
        local_layers=tuple(method.local_layers),
    )
    fields = {field.name for field in dataclasses.fields(kind)}
    return kind(**{key: value for key, value in options.items() if key in fields})


def _target(method: ConfigDict) -> Target:
    target, scales = _find("target", method.target, TARGETS), tuple(method.target_scales)
    own = target(normalize=method.normalize_target)
    return MultiScale(own, scales) if scales else own


def _fusion(method: ConfigDict) -> LayerFusion | None:
    layers = tuple(method.fuse_layers)
    return LayerFusion(layers, jnp.dtype(method.dtype)) if layers else None


def _find(noun: str, name: str, table: Mapping[str, Any]) -> Any:
    if name not in table:
        raise ValueError(f"unknown {noun} '{name}'; choose from: {', '.join(table)}")
    return table[name]


def create_backbone(section: ConfigDict) -> Backbone:
    """Return the backbone of `config.method` or `config.model`.

    Raises:
      ValueError: an unknown name, or a size that it does not have.
    """
    sizes = {key: value for key, value in section.backbone.items() if value is not None}
    name = sizes.pop("name")
    compute, own = dict(_compute(section), layers=section.layers), backbone_fields(name)
    return create_model(name, **{key: x for key, x in compute.items() if key in own}, **sizes)


def create_classifier(model: ConfigDict, classes: int) -> Classifier:
    """Return a backbone with pooling and head, from `config.model`.

    Raises:
      ValueError: an unknown name, or a size that the backbone does not have.

    >>> import jax
    >>> from fastmim_jax.config import finetune_config
    >>> config = finetune_config().model
    >>> config.backbone.update(name="vit_ti16", depth=2)
    >>> classifier = create_classifier(config, classes=10)
    >>> images = jnp.zeros((1, 32, 32, 3))
    >>> logits, variables = jax.eval_shape(classifier.init_with_output, jax.random.key(0), images)
    >>> logits.shape
    (1, 10)
    """
    encoder = create_backbone(model)
    pooling = model.pooling or encoder.pooling
    _find("pooling", pooling, POOLINGS)
    wide = {"norm_groups": encoder.norm_groups, "width": model.pooling_width}
    options = {key: x for key, x in wide.items() if x is not None} if pooling == "wide_pool" else None
    return Classifier(encoder, classes, pooling, options)


def create_segmenter(model: ConfigDict, classes: int) -> Segmenter:
    """Return a backbone with heads of segmentation, from `config.model`.

    Raises:
      ValueError: an unknown name, or a size that the backbone does not have.
    """
    head = model.head
    _find("head", head.name, HEADS)
    return Segmenter(
        create_backbone(model),
        classes,
        head.name,
        channels=head.channels,
        layers=tuple(head.layers),
        auxiliary_channels=head.auxiliary_channels,
        auxiliary_input=head.auxiliary_input,
        dropout=head.dropout,
    )


@dataclasses.dataclass(frozen=True)
class StoredImages:
    """The stored images of prepared data.

    Attributes:
      layout: "jpeg", "yuv420" or "raw"; "" if it is not prepared.
      largest: (largest height, largest width) in pixels; None if it is not prepared.
      channels: of every image; None if it is not prepared.
    """

    layout: str = ""
    largest: tuple[int, int] | None = None
    channels: int | None = None


NOT_PREPARED = StoredImages()
WHOLE = (1.0, 1.0)


def create_reader(config: ConfigDict, stored: StoredImages = NOT_PREPARED) -> ImageReader:
    """Return the ImageReader of `config.data` and `config.run`.

    stored: the training data, see `stored_images`; NOT_PREPARED where nothing is trained.
    """
    data, run = config.data, config.run
    mean, std = channel_statistics(data.channels)
    return ImageReader(
        image_size=tuple(data.image_size),
        channels=data.channels,
        mean=tuple(data.mean) or mean,
        std=tuple(data.std) or std,
        crop_scale=tuple(data.get("crop_scale", WHOLE)),  # segmentation crops with the masks
        crop_ratio=tuple(data.get("crop_ratio", WHOLE)),
        eval_resize=data.get("eval_resize"),
        workers=pick_workers(cpu_share().cpus) if run.workers < 0 else run.workers,
        threads=run.threads,
        layout="yuv420" if stored.layout == "yuv420" and _takes_planes(config) else "rgb",
        canvas=stored.largest if data.get("crop_on") == "device" else None,
        rules=decode_rules(data),
        max_worker_restarts=run.max_worker_restarts,
    )


def decode_rules(data: ConfigDict) -> DecodeRules:
    """Return the rules of decoding of `config.data`."""
    return DecodeRules(
        max_pixels=data.max_pixels,
        value_range=tuple(data.value_range),
        nodata=() if data.nodata is None else (data.nodata,),
        dtype=data.pixel_dtype,
    )


def stored_images(source: Any) -> StoredImages:
    """Return how a source, or None, stores its images."""
    manifest: Manifest | None = getattr(source, "manifest", None)
    if manifest is None:
        return NOT_PREPARED
    return StoredImages(manifest.layout, (manifest.max_height, manifest.max_width), manifest.channels)


def _takes_planes(config: ConfigDict) -> bool:
    """Return whether training crops can stay YCbCr: RGB training without augmentation on the host."""
    augmented = "augment" in config and config.augment.magnitude > 0
    return config.data.channels == 3 and fits_planes(tuple(config.data.image_size)) and not augmented


def _compute(section: ConfigDict) -> dict[str, Any]:
    return dict(
        kernel=section.kernel,
        dtype=jnp.dtype(section.dtype),
        remat=section.remat,
        residual_dtype=jnp.dtype(section.residual_dtype) if section.residual_dtype else None,
    )
