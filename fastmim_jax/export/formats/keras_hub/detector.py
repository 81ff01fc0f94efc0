"""RetinaNet on an exported backbone, in keras_hub on JAX.

KERAS_BACKEND=jax python detector.py --data=/coco --out=coco.weights.h5

trains it by the published settings in backbone.json; /coco has train2017/ and annotations/. As a module it
gives `build_pyramid`, the feature pyramid of the backbone, and `build_detector`. It needs keras-hub,
safetensors and, to train, pillow.
"""

import argparse
import json
import os
import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "jax")

import keras  # noqa: E402  # after the choice of its backend
import keras_hub  # noqa: E402
import numpy as np  # noqa: E402
from safetensors.numpy import load_file  # noqa: E402

HERE = Path(__file__).parent
CLASSES = 80
MOST_BOXES = 100  # of an image
PATCH = 16  # pixels, of a ViT
LEVELS = (3, 7)  # first and last, of 8 and 128 pixels


def build_backbone(description: Mapping[str, Any]) -> keras.Model:
    """Return the model of a description {"class", "arguments"} with random weights."""
    name, arguments = description["class"], dict(description["arguments"])
    if hasattr(keras.applications, name):
        shape = arguments.pop("image_shape")
        build = getattr(keras.applications, name)
        return build(
            include_top=False, include_preprocessing=False, weights=None, input_shape=shape, name="convnext"
        )
    return getattr(keras_hub.models, name)(**arguments)


def assign(model: keras.Model, arrays: Mapping[str, np.ndarray]) -> None:
    """Assign arrays to the variables of a model by their paths.

    Raises:
      ValueError: there are other names than the variables'.
    """
    # Keras numbers variables and layers without a name of their own.
    variables = {
        re.sub(r"(/variable|^layer_normalization)_\d+", r"\1", variable.path): variable
        for variable in model.weights
    }
    if variables.keys() != arrays.keys():
        raise ValueError(
            f"other variables than the model's: {sorted(variables.keys() ^ arrays.keys())[:5]}"
        )
    for path, variable in variables.items():
        variable.assign(np.reshape(arrays[path], variable.shape))


def layer_outputs(model: keras.Model, description: Mapping[str, Any]) -> dict[str, Any]:
    """Return {"block 1" or "stage 1", ...: grid (B, h, w, D)}, the last normalised, as Keras tensors.

    A ViT with a class token has "cls" (B, D) too.
    """
    name = description["class"]
    if name == "ViTBackbone":
        return _vit_outputs(model)
    return _swin_outputs(model) if name == "SwinTransformerBackbone" else _convnext_outputs(model)


def _vit_outputs(model: Any) -> dict[str, Any]:
    encoder, prefix = model.get_layer("vit_encoder"), int(model.use_class_token)
    x = model.get_layer("vit_patching_and_embedding").output
    rows, columns = (model.image_shape[axis] // model.patch_size[axis] for axis in (0, 1))
    grid = keras.layers.Reshape((rows, columns, model.hidden_dim))
    outputs = {}
    for number, block in enumerate(encoder.encoder_layers, 1):
        x = block(x)
        if number == len(encoder.encoder_layers):
            x = encoder.layer_norm(x)
        outputs[f"block {number}"] = grid(x[:, prefix:])
    return outputs | ({"cls": x[:, 0]} if prefix else {})


class StageBlocks(keras.layers.Layer):
    """The blocks of a stage of keras_hub's Swin, without the downsampling after them."""

    def __init__(self, stage: Any, name: str):
        super().__init__(name=name)
        self.blocks = stage.blocks

    def call(self, x: Any) -> Any:
        """Return the tokens after the blocks, (B, h * w, D)."""
        for block in self.blocks:
            x = block(x)
        return x

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        """Return the same shape."""
        return input_shape


class StageMerging(keras.layers.Layer):
    """The downsampling after a stage of keras_hub's Swin."""

    def __init__(self, stage: Any, name: str):
        super().__init__(name=name)
        self.merging, self.grid = stage.downsample, stage.input_resolution

    def call(self, x: Any) -> Any:
        """Return the tokens of the next stage."""
        return self.merging(x, H=self.grid[0], W=self.grid[1])

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        """Return (B, h * w / 4, 2 * D)."""
        return input_shape[0], input_shape[1] // 4, 2 * input_shape[2]


def _swin_outputs(model: Any) -> dict[str, Any]:
    x = model.get_layer("pos_drop").output
    outputs = {}
    for number, stage in enumerate(model.stages, 1):
        x = StageBlocks(stage, name=f"stage_{number}_blocks")(x)
        normed = model.norm(x) if stage.downsample is None else x
        outputs[f"stage {number}"] = keras.layers.Reshape((*stage.input_resolution, stage.dim))(normed)
        if stage.downsample is not None:
            x = StageMerging(stage, name=f"stage_{number}_merging")(x)
    return outputs


def _convnext_outputs(model: keras.Model) -> dict[str, Any]:
    names = [f"convnext_downsampling_block_{number}" for number in range(3)]
    outputs = [*(model.get_layer(name).input for name in names), model.output]
    return {f"stage {number}": x for number, x in enumerate(outputs, 1)}


def read_notes() -> dict[str, Any]:
    """Return backbone.json: {"backbone", "mean", "std", "recipe"}."""
    return json.loads((HERE / "backbone.json").read_text())


def build_pyramid() -> keras.Model:
    """Return the pyramid of the exported weights, from normalised images to {"P2": (B, h, w, D), ...}.

    A ViT has four grids of one size, after each quarter of its blocks.
    """
    description = read_notes()["backbone"]
    backbone = build_backbone(description)
    assign(backbone, load_file(HERE / "model.safetensors"))
    outputs = layer_outputs(backbone, description)
    outputs.pop("cls", None)
    depth = len(outputs)
    quarters = sorted({-(-depth * quarter // 4) for quarter in (1, 2, 3, 4)})
    grids = [grid for number, grid in enumerate(outputs.values(), 1) if number in quarters]
    return _with_levels(backbone.input, {f"P{level}": grid for level, grid in enumerate(grids, 2)})


def _with_levels(inputs: Any, levels: dict[str, Any]) -> Any:
    """Return a model with the outputs that RetinaNet takes as a feature pyramid."""
    model = keras_hub.models.FeaturePyramidBackbone(inputs=inputs, outputs=levels)
    model.pyramid_outputs = levels
    return model


def build_detector(classes: int = CLASSES) -> keras.Model:
    """Return a RetinaNet whose pyramid has the exported weights, for normalised images of their size.

    Raises:
      ValueError: the images are not square, or a ViT's patches not of 16 pixels, as RetinaNet needs them.
    """
    notes, pyramid = read_notes(), build_pyramid()
    height, width, channels = notes["backbone"]["arguments"]["image_shape"]
    if height != width:
        raise ValueError(
            f"images of {height} x {width} pixels, expected square ones: convert --image_size={width}"
        )
    if notes["backbone"]["class"] == "ViTBackbone":
        patch = notes["backbone"]["arguments"]["patch_size"]
        if patch != PATCH:
            raise ValueError(f"patches of {patch} pixels, expected {PATCH} for levels of 8, 16 and 32")
        *_, last = pyramid.pyramid_outputs.values()
        pyramid = _with_levels(pyramid.input, _scaled(last))
    backbone = keras_hub.models.RetinaNetBackbone(
        pyramid,
        min_level=LEVELS[0],
        max_level=LEVELS[1],
        use_p5=False,
        image_shape=(height, width, channels),
    )
    return keras_hub.models.RetinaNetObjectDetector(backbone, classes, bounding_box_format="xyxy")


def _scaled(grid: Any) -> dict[str, Any]:
    """Return ViTDet's levels P3 to P5 of 8, 16 and 32 pixels from a grid of patches of 16 pixels."""
    width = grid.shape[-1]
    finer = keras.layers.Conv2DTranspose(width // 2, 2, strides=2)(grid)
    return {"P3": finer, "P4": grid, "P5": keras.layers.MaxPooling2D(2)(grid)}


class Coco(keras.utils.PyDataset):
    """Batches of COCO's train2017: (images, {"boxes", "labels"}), resized to one size, unused boxes -1."""

    def __init__(self, data: Path, notes: Mapping[str, Any], batch: int):
        super().__init__(workers=4, use_multiprocessing=False)
        self.folder, self.batch, self.notes = data / "train2017", batch, notes
        self.size = notes["backbone"]["arguments"]["image_shape"][0]
        content = json.loads((data / "annotations" / "instances_train2017.json").read_text())
        self.labels = {category["id"]: label for label, category in enumerate(content["categories"])}
        self.objects: dict[int, list] = defaultdict(list)
        for item in content["annotations"]:
            if not item["iscrowd"]:
                self.objects[item["image_id"]].append((item["bbox"], self.labels[item["category_id"]]))
        self.photos = [photo for photo in content["images"] if self.objects[photo["id"]]]
        self.random = np.random.default_rng(0)

    def __len__(self) -> int:
        return len(self.photos) // self.batch

    def on_epoch_end(self) -> None:
        """Shuffle the photos."""
        self.random.shuffle(self.photos)

    def __getitem__(self, index: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        pairs = [self._load(photo) for photo in self.photos[index * self.batch : (index + 1) * self.batch]]
        images, boxes, labels = (np.stack(x) for x in zip(*pairs, strict=True))
        return images, {"boxes": boxes, "labels": labels}

    def _load(self, photo: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        from PIL import Image

        image = Image.open(self.folder / photo["file_name"]).convert("RGB")
        scale = self.size / max(image.size)
        image = image.resize(
            [max(1, round(side * scale)) for side in image.size], Image.Resampling.BILINEAR
        )
        pixels = np.zeros((self.size, self.size, 3), np.float32)
        normalised = (np.asarray(image, np.float32) - self.notes["mean"]) / self.notes["std"]
        pixels[: image.height, : image.width] = normalised
        objects = self.objects[photo["id"]][:MOST_BOXES]
        boxes = np.full((MOST_BOXES, 4), -1, np.float32)
        labels = np.full((MOST_BOXES,), -1, np.int32)
        for number, ((left, top, width, height), label) in enumerate(objects):
            boxes[number] = np.array([left, top, left + width, top + height]) * scale
            labels[number] = label
        return pixels, boxes, labels


class PublishedRate(keras.optimizers.schedules.LearningRateSchedule):
    """Learning rate that rises for `warmup` steps, and falls to a tenth after each of `ends`."""

    def __init__(self, rate: float, warmup: int, ends: list[int]):
        self.rate, self.warmup, self.ends = rate, warmup, ends

    def __call__(self, step: Any) -> Any:
        """Return the learning rate of a step."""
        step = keras.ops.cast(step, "float32")
        rate = self.rate * keras.ops.minimum(1.0, (step + 1) / self.warmup)
        for end in self.ends:
            rate = keras.ops.where(step >= end, rate / 10, rate)
        return rate

    def get_config(self) -> dict[str, Any]:
        """Return the arguments."""
        return {"rate": self.rate, "warmup": self.warmup, "ends": self.ends}


def compile_detector(detector: Any, recipe: Mapping[str, Any], steps: int, batch: int) -> None:
    """Set keras_hub's losses and the published optimizer; the learning rate follows the batch."""
    ends = [int(fraction * steps) for fraction in recipe["milestones"]]
    rate = PublishedRate(recipe["learning_rate"] * batch / recipe["batch"], recipe["warmup"], ends)
    optimizer = keras.optimizers.AdamW(rate, weight_decay=recipe["weight_decay"])
    optimizer.exclude_from_weight_decay(
        var_names=["gamma", "beta", "bias", "position_bias_table", "embeddings", "class_token"]
    )
    detector.compile(optimizer=optimizer)


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="COCO: train2017/ and annotations/")
    parser.add_argument("--out", type=Path, required=True, help="file of the trained weights, .weights.h5")
    parser.add_argument("--batch", type=int, default=4, help="images per update")
    arguments = parser.parse_args()
    notes, detector = read_notes(), build_detector()
    images = Coco(arguments.data, notes, arguments.batch)
    recipe = notes["recipe"]
    compile_detector(detector, recipe, recipe["epochs"] * len(images), arguments.batch)
    detector.fit(images, epochs=recipe["epochs"])
    detector.save_weights(arguments.out)


if __name__ == "__main__":
    main()
