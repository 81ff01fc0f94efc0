"""The published dense heads, written from mmsegmentation 0.28's description, for PyTorch.

Modules have the names of ours, so that weights map by name: `to_flax`.
"""

from typing import NamedTuple

import numpy as np
import torch
from flax.traverse_util import unflatten_dict
from torch import nn
from torch.nn import functional


def resize(x, size):
    return functional.interpolate(x, size=size, mode="bilinear", align_corners=False)


class ConvModule(nn.Module):
    def __init__(self, inputs, outputs, size):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, size, padding=size // 2, bias=False)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x):
        return functional.relu(self.norm(self.conv(x)))


class Classifier(nn.Module):
    def __init__(self, channels, classes):
        super().__init__()
        self.conv = nn.Conv2d(channels, classes, 1)

    def forward(self, x):
        return self.conv(x)


class UPerHead(nn.Module):
    def __init__(self, widths, channels, classes):
        super().__init__()
        for i in range(4):
            setattr(self, f"pool_{i}", ConvModule(widths[-1], channels, 1))
        self.bottleneck = ConvModule(widths[-1] + 4 * channels, channels, 3)
        for i, width in enumerate(widths[:-1]):
            setattr(self, f"lateral_{i}", ConvModule(width, channels, 1))
            setattr(self, f"smooth_{i}", ConvModule(channels, channels, 3))
        self.fusion = ConvModule(len(widths) * channels, channels, 3)
        self.classifier = Classifier(channels, classes)

    def forward(self, grids):
        last = grids[-1]
        pooled = [
            resize(getattr(self, f"pool_{i}")(functional.adaptive_avg_pool2d(last, cells)), last.shape[2:])
            for i, cells in enumerate((1, 2, 3, 6))
        ]
        levels = [getattr(self, f"lateral_{i}")(grid) for i, grid in enumerate(grids[:-1])]
        levels.append(self.bottleneck(torch.cat([last, *pooled], 1)))
        for i in (3, 2, 1):
            levels[i - 1] = levels[i - 1] + resize(levels[i], levels[i - 1].shape[2:])
        outputs = [getattr(self, f"smooth_{i}")(levels[i]) for i in range(3)] + [levels[3]]
        outputs = [resize(x, levels[0].shape[2:]) for x in outputs]
        return self.classifier(self.fusion(torch.cat(outputs, 1)))


class SemanticFPN(nn.Module):
    """The neck FPN without norms and its nearest upsampling, then FPNHead."""

    def __init__(self, widths, channels, classes):
        super().__init__()
        for i, width in enumerate(widths):
            setattr(self, f"lateral_{i}", nn.Conv2d(width, channels, 1))
            setattr(self, f"smooth_{i}", nn.Conv2d(channels, channels, 3, padding=1))
            for step in range(max(1, i)):
                inputs = channels // 2 if step else channels
                setattr(self, f"scale_{i}_{step}", ConvModule(inputs, channels // 2, 3))
        self.classifier = Classifier(channels // 2, classes)

    def forward(self, grids):
        levels = [getattr(self, f"lateral_{i}")(grid) for i, grid in enumerate(grids)]
        for i in (3, 2, 1):
            levels[i - 1] = levels[i - 1] + functional.interpolate(levels[i], levels[i - 1].shape[2:])
        total = 0
        for i, level in enumerate(levels):
            x = getattr(self, f"smooth_{i}")(level)
            for step in range(max(1, i)):
                x = getattr(self, f"scale_{i}_{step}")(x)
                if i:
                    x = functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
            total = total + resize(x, levels[0].shape[2:])
        return self.classifier(total)


class FCNHead(nn.Module):
    def __init__(self, width, channels, classes):
        super().__init__()
        self.conv = ConvModule(width, channels, 3)
        self.classifier = Classifier(channels, classes)

    def forward(self, grid):
        return self.classifier(self.conv(grid))


class Neck(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.up_0_0, self.up_0_1, self.up_1 = (
            nn.ConvTranspose2d(width, width, 2, stride=2) for _ in range(3)
        )
        self.norm_0 = nn.BatchNorm2d(width)

    def forward(self, grids):
        finest = self.up_0_1(functional.gelu(self.norm_0(self.up_0_0(grids[0]))))
        return [finest, self.up_1(grids[1]), grids[2], functional.max_pool2d(grids[3], 2, 2)]


def randomize(module, seed=0):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, x in [*module.named_parameters(), *module.named_buffers()]:
            if x.is_floating_point():
                low, high = (0.5, 1.5) if name.endswith(("var", "norm.weight")) else (-0.3, 0.3)
                x.copy_(low + (high - low) * torch.rand(x.shape, generator=generator))


def count_parameters(module):
    return sum(x.numel() for x in module.parameters())


def _flax(name, x, of_gradient=None):
    """-> (path, array) of a PyTorch array; transposed convolutions are called up_*."""
    path, last = name.rsplit(".", 1)
    norm = path.split(".")[-1].startswith("norm")
    last = {"weight": "scale" if norm else "kernel", "running_mean": "mean", "running_var": "var"}.get(
        last, last
    )
    x = x.detach().numpy()
    if last == "kernel":
        x = x.transpose(2, 3, 0, 1) if ".up_" in f".{path}" else x.transpose(2, 3, 1, 0)
    return (*path.split("."), last), np.array(x)


def to_flax(module):
    """-> (params, batch_stats) of ours."""
    params = dict(_flax(name, x) for name, x in module.named_parameters())
    return unflatten_dict(params), unflatten_dict(_stats(module))


def _stats(module):
    return dict(_flax(name, x) for name, x in module.named_buffers() if x.is_floating_point())


class Outcome(NamedTuple):
    outputs: list
    input_gradients: list
    gradients: dict
    stats: dict


def run(module, inputs, training):
    """Run the module and differentiate the sum of sin(output + i) over its outputs i."""
    module.train(training).zero_grad()
    several = isinstance(inputs, list)
    grids = [torch.from_numpy(x.transpose(0, 3, 1, 2).copy()) for x in (inputs if several else [inputs])]
    grids = [x.requires_grad_() for x in grids]
    out = module(grids if several else grids[0])
    outputs = list(out) if isinstance(out, list) else [out]
    sum(torch.sin(x + i).sum() for i, x in enumerate(outputs)).backward()
    last = [x.detach().numpy().transpose(0, 2, 3, 1) for x in outputs]
    of_inputs = [x.grad.numpy().transpose(0, 2, 3, 1) for x in grids]
    gradients = unflatten_dict(
        {_flax(name, x)[0]: _flax(name, x.grad)[1] for name, x in module.named_parameters()}
    )
    return Outcome(last, of_inputs, gradients, unflatten_dict(_stats(module)))
