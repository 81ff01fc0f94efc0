"""The published pipeline that our loader is compared with, and the data that both read."""

from pathlib import Path

import torch
from PIL import Image

from fastmim_jax.data.sources.record_rows import read_rows

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
REPEATS = 200  # of the records, so that a few photos are a long epoch


class Repeated:
    """A source whose records are repeated."""

    def __init__(self, source):
        self.source, self.classes = source, source.classes

    def __len__(self):
        return REPEATS * len(self.source)

    def __getitem__(self, index):
        return self.source[index % len(self.source)]

    def rows(self, index):
        return read_rows(self.source, index % len(self.source))

    def name(self, index):
        return self.source.name(index % len(self.source))

    def label(self, index):
        return self.source.label(index % len(self.source))


def write_files(source, folder):
    """Write the records of a source, encoded images, as files -> the folder."""
    folder.mkdir(parents=True)
    for index in range(len(source)):
        (folder / f"{index:05}.jpg").write_bytes(source[index])
    return folder


class Files(torch.utils.data.Dataset):
    """Image files as torchvision's ImageFolder reads them."""

    def __init__(self, paths, transform):
        self.paths, self.transform = paths, transform

    def __len__(self):
        return REPEATS * len(self.paths)

    def __getitem__(self, index):
        with open(self.paths[index % len(self.paths)], "rb") as file:
            return self.transform(Image.open(file).convert("RGB")), 0


def published_batches(paths, size, batch):
    """Yield the batches of the published pipeline, from one worker process."""
    transforms = _transforms()
    transform = transforms.Compose(
        [
            transforms.RandomResizedCrop(
                size, scale=(0.2, 1.0), interpolation=transforms.InterpolationMode.BICUBIC
            ),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )
    files = Files([str(Path(path)) for path in paths], transform)
    yield from torch.utils.data.DataLoader(files, batch, shuffle=True, num_workers=1, drop_last=True)


def _transforms():
    """Return torchvision.transforms; its compiled operators, which crops do not use, may be missing."""
    try:
        from torchvision import transforms
    except RuntimeError:  # built for another torch
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor boxes, Tensor scores, float threshold) -> Tensor")
        from torchvision import transforms
    return transforms
