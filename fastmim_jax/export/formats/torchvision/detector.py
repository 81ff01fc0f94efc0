"""Mask R-CNN on an exported backbone, in torchvision.

python detector.py --data=/coco --out=runs/coco

trains it by the published recipe in backbone.json; /coco has train2017/ and annotations/. As a module it
gives `build_pyramid`, the feature pyramid of the backbone, and `build_detector`. It needs torch and
torchvision, and pycocotools to train.
"""

import argparse
import json
import math
from collections import OrderedDict
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision import models
from torchvision.models.convnext import LayerNorm2d
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelMaxPool

HERE = Path(__file__).parent
WIDTH = 256  # channels of every level of the pyramid
CLASSES = 91  # COCO's numbers of categories and the background


def build_backbone(description: Mapping[str, Any], **options: float) -> nn.Module:
    """Return the model of torchvision.models of a description, in eval mode.

    Args:
      description: {"architecture", "epsilon", "arguments"}.
      options: further arguments of the class.
    """
    name, arguments = description["architecture"], dict(description["arguments"])
    if name == "ConvNeXt":
        setting = models.convnext.CNBlockConfig
        arguments["block_setting"] = [setting(*stage) for stage in arguments["block_setting"]]
    else:
        arguments["norm_layer"] = partial(nn.LayerNorm, eps=description["epsilon"])
    classes = arguments.pop("num_classes")
    model = getattr(models, name)(**arguments, **options, num_classes=max(1, classes)).eval()
    if not classes:
        model.set_submodule(HEADS[name], nn.Identity())
    return model


class StagePyramid(nn.Module):
    """The outputs of the four stages of a Swin or ConvNeXt, the last after its norm: (B, D, h, w) each."""

    def __init__(self, backbone: Any, widths: list[int]):
        super().__init__()
        self.features: nn.Sequential = backbone.features
        self.widths = widths
        self.channels_last = isinstance(backbone, models.SwinTransformer)
        self.norm: nn.Module = backbone.norm if self.channels_last else backbone.classifier[0]

    def forward(self, images: Tensor) -> "OrderedDict[str, Tensor]":
        levels, x = [], images
        for number, layer in enumerate(self.features):
            x = layer(x)
            if number % 2:
                levels.append(x)
        levels[-1] = self.norm(levels[-1])
        if self.channels_last:
            levels = [level.permute(0, 3, 1, 2) for level in levels]
        return OrderedDict((str(number), level) for number, level in enumerate(levels))


class PlainPyramid(nn.Module):
    """Grids of a ViT after each quarter of its blocks, the last after its norm: (B, D, h, w) each.

    The table of positions is resized to the grid of the images.
    """

    vit: Any

    def __init__(self, backbone: Any):
        super().__init__()
        self.vit, self.widths = backbone, [backbone.hidden_dim]
        depth = len(backbone.encoder.layers)
        self.quarters = sorted({-(-depth * quarter // 4) for quarter in (1, 2, 3, 4)})

    def forward(self, images: Tensor) -> "OrderedDict[str, Tensor]":
        x = self.vit.conv_proj(images)
        grid = x.shape[-2:]
        cls = self.vit.class_token.expand(len(x), -1, -1)
        x = torch.cat([cls, x.flatten(2).transpose(1, 2)], dim=1) + self.positions(grid)
        levels = []
        for number, block in enumerate(self.vit.encoder.layers, 1):
            x = block(x)
            if number in self.quarters:
                levels.append(x)
        levels[-1] = self.vit.encoder.ln(levels[-1])
        grids = [level[:, 1:].transpose(1, 2).unflatten(2, grid) for level in levels]
        return OrderedDict((str(number), level) for number, level in enumerate(grids))

    def positions(self, grid: torch.Size) -> Tensor:
        """Return the positions (1, 1 + h * w, D) of a grid (h, w)."""
        table = self.vit.encoder.pos_embedding
        side = math.isqrt(table.shape[1] - 1)
        if tuple(grid) == (side, side):
            return table
        cells = table[:, 1:].transpose(1, 2).unflatten(2, (side, side))
        cells = nn.functional.interpolate(cells, size=grid, mode="bicubic", align_corners=False)
        return torch.cat([table[:, :1], cells.flatten(2).transpose(1, 2)], dim=1)


class SimpleFeaturePyramid(nn.Module):
    """ViTDet's levels of 4 to 64 pixels from the last grid of a ViT with patches of 16 pixels."""

    def __init__(self, width: int):
        super().__init__()
        up, half, quarter = partial(nn.ConvTranspose2d, kernel_size=2, stride=2), width // 2, width // 4
        norm = partial(LayerNorm2d, eps=1e-6)
        scales = [
            ([up(width, half), norm(half), nn.GELU(), up(half, quarter)], quarter),
            ([up(width, half)], half),
            ([], width),
            ([nn.MaxPool2d(2)], width),
        ]
        self.levels = nn.ModuleList(
            nn.Sequential(
                *layers,
                nn.Conv2d(channels, WIDTH, 1, bias=False),
                norm(WIDTH),
                nn.Conv2d(WIDTH, WIDTH, 3, padding=1, bias=False),
                norm(WIDTH),
            )
            for layers, channels in scales
        )

    def forward(self, grids: "OrderedDict[str, Tensor]") -> "OrderedDict[str, Tensor]":
        last = grids[next(reversed(grids))]
        levels = [level(last) for level in self.levels]
        levels.append(nn.functional.max_pool2d(levels[-1], 1, 2))
        return OrderedDict(zip(("0", "1", "2", "3", "pool"), levels, strict=True))


class PyramidBackbone(nn.Module):
    """The backbone of a detector: `body`, the grids of the exported weights, and `fpn`, new layers."""

    out_channels = WIDTH

    def __init__(self, body: StagePyramid | PlainPyramid):
        super().__init__()
        self.body = body
        if isinstance(body, PlainPyramid):
            self.fpn: nn.Module = SimpleFeaturePyramid(body.widths[0])
        else:
            self.fpn = FeaturePyramidNetwork(body.widths, WIDTH, LastLevelMaxPool(), LayerNorm2d)

    def forward(self, images: Tensor) -> "OrderedDict[str, Tensor]":
        return self.fpn(self.body(images))


HEADS = {"VisionTransformer": "heads", "SwinTransformer": "head", "ConvNeXt": "classifier.2"}


def read_notes() -> dict[str, Any]:
    """Return backbone.json: {"backbone", "mean", "std", "recipe"}."""
    return json.loads((HERE / "backbone.json").read_text())


def build_pyramid(**options: float) -> StagePyramid | PlainPyramid:
    """Return the pyramid of the exported weights, from normalised images to {"0": (B, D, h, w), ...}.

    options: further arguments of the class, such as stochastic_depth_prob.
    """
    description = read_notes()["backbone"]
    backbone = build_backbone(description, **options)
    backbone.load_state_dict(torch.load(HERE / "backbone.pth", weights_only=True)["model"])
    arguments = description["arguments"]
    if description["architecture"] == "VisionTransformer":
        return PlainPyramid(backbone)
    if description["architecture"] == "SwinTransformer":
        return StagePyramid(backbone, [arguments["embed_dim"] * 2**stage for stage in range(4)])
    return StagePyramid(backbone, [stage[0] for stage in arguments["block_setting"]])


def build_detector(classes: int = CLASSES) -> MaskRCNN:
    """Return a Mask R-CNN whose pyramid has the exported weights; it normalises images of [0, 1] itself."""
    notes = read_notes()
    vit = notes["backbone"]["architecture"] == "VisionTransformer"  # has no stochastic depth here
    options = {} if vit else dict(stochastic_depth_prob=notes["recipe"]["drop_path"])
    backbone = PyramidBackbone(build_pyramid(**options))
    return MaskRCNN(
        backbone,
        classes,
        min_size=1024,
        max_size=1666,
        size_divisible=64,
        image_mean=[x / 255 for x in notes["mean"]],
        image_std=[x / 255 for x in notes["std"]],
        rpn_anchor_generator=AnchorGenerator(
            tuple((size,) for size in (32, 64, 128, 256, 512)), ((0.5, 1.0, 2.0),) * 5
        ),
        rpn_head=RPNHead(WIDTH, 3, conv_depth=2),
        box_head=FastRCNNConvFCHead((WIDTH, 7, 7), [256] * 4, [1024], norm_layer=LayerNorm2d),
        mask_head=MaskRCNNHeads(WIDTH, [256] * 4, 1, norm_layer=LayerNorm2d),
    )


def parameter_groups(detector: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Return the trained parameters in two groups: norms, biases and tables of positions do not decay."""
    groups: tuple[list, list] = ([], [])
    for name, x in detector.named_parameters():
        fixed = x.ndim == 1 or name.endswith(("position_bias_table", "pos_embedding", "class_token"))
        if x.requires_grad:
            groups[fixed].append(x)
    return [dict(params=groups[0], weight_decay=weight_decay), dict(params=groups[1], weight_decay=0.0)]


def load_coco(data: Path, recipe: Mapping[str, Any]) -> torch.utils.data.Dataset:
    """Return train2017 with the boxes, labels and masks of its photos, augmented."""
    from torchvision.datasets import CocoDetection, wrap_dataset_for_transforms_v2
    from torchvision.transforms import v2

    sizes = [v2.RandomShortestSize(list(range(480, 801, 32)), max_size=1333)]
    if recipe["scales"]:
        sizes = [
            v2.ScaleJitter((1024, 1024), tuple(recipe["scales"])),
            v2.RandomCrop((1024, 1024), pad_if_needed=True),
        ]
    steps = [v2.ToImage(), v2.RandomHorizontalFlip(), *sizes, v2.SanitizeBoundingBoxes()]
    photos = CocoDetection(
        str(data / "train2017"),
        str(data / "annotations" / "instances_train2017.json"),
        transforms=v2.Compose([*steps, v2.ToDtype(torch.float32, scale=True), v2.ToPureTensor()]),
    )
    return wrap_dataset_for_transforms_v2(photos, target_keys=("boxes", "labels", "masks"))


def train(data: Path, out: Path, batch: int, device: str) -> None:
    """Train on COCO; the learning rate follows the batch."""
    recipe, detector = read_notes()["recipe"], build_detector().to(device).train()
    dataset = load_coco(data, recipe)
    loader = torch.utils.data.DataLoader(
        dataset,
        batch,
        shuffle=True,
        num_workers=4,
        drop_last=True,
        collate_fn=lambda x: tuple(zip(*x, strict=True)),
    )
    steps = recipe["epochs"] * len(loader)
    rate = recipe["learning_rate"] * batch / recipe["batch"]
    optimizer = torch.optim.AdamW(parameter_groups(detector, recipe["weight_decay"]), rate)

    def factor(step: int) -> float:
        passed = sum(step >= fraction * steps for fraction in recipe["milestones"])
        return min(1.0, (step + 1) / recipe["warmup"]) * 0.1**passed

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    out.mkdir(parents=True, exist_ok=True)
    for epoch in range(recipe["epochs"]):
        for images, targets in loader:
            pairs = [(i, t) for i, t in zip(images, targets, strict=True) if len(t.get("boxes", ()))]
            if not pairs:
                continue
            losses = detector(
                [image.to(device) for image, _ in pairs],
                [{name: x.to(device) for name, x in target.items()} for _, target in pairs],
            )
            optimizer.zero_grad()
            sum(losses.values()).backward()
            optimizer.step()
            schedule.step()
        torch.save(detector.state_dict(), out / f"epoch{epoch + 1}.pth")
        print(f"epoch {epoch + 1}:", {name: round(float(x), 4) for name, x in losses.items()})


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="COCO: train2017/ and annotations/")
    parser.add_argument("--out", type=Path, required=True, help="folder of the checkpoints")
    parser.add_argument("--batch", type=int, default=2, help="images per update on this device")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    train(arguments.data, arguments.out, arguments.batch, arguments.device)


if __name__ == "__main__":
    main()
