"""A small tree of real JPEG files, laid out as ImageNet's."""

from pathlib import Path

import torch
from PIL import Image


def save(path: Path, seed: int) -> None:
    """A real JPEG file: smooth random colours, wider than high."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = torch.randint(0, 256, (4, 5, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    Image.fromarray(pixels.numpy()).resize((60, 48), Image.Resampling.BICUBIC).save(path)


def plant(folder: Path) -> Path:
    """Five training images and two test images in each of two classes, below ``folder``, which is returned."""
    for number, name in enumerate(("n01440764", "n01443537")):
        for split, count in (("train", 5), ("val", 2)):
            for image in range(count):
                save(folder / split / name / f"{name}_{image}.JPEG", seed=100 * number + 10 * count + image)
    return folder
