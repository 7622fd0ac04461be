"""A tree of photo-like JPEG files of ImageNet's usual size, 500x375 pixels and about 115 kB each.

python -m benchmarks.photos FOLDER                     a tree as of ImageNet: train/ and val/, 1,000 classes
python -m rescaler prepare data=imagenet data.folder=FOLDER ...
"""

import argparse
import io
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES, TRAIN, TEST = 1000, 2000, 1000


def photo(seed: int, width: int = 500, height: int = 375) -> Image.Image:
    """Colours whose amplitude falls as 1/f^1.1, as natural images' does; brightness varies most."""
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = np.inf
    noise = np.random.default_rng(seed).standard_normal((3, height, width))
    fields = np.fft.irfft2(np.fft.rfft2(noise) / frequency**1.1, (height, width))
    light, red_green, blue_yellow = fields / fields.std(axis=(1, 2), keepdims=True)
    red = light + 0.35 * red_green
    green = light - 0.15 * red_green - 0.15 * blue_yellow
    blue = light + 0.35 * blue_yellow
    pixels = 118 + 58 * np.stack([red, green, blue], axis=-1)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def save_photo(path: Path, seed: int) -> None:
    """One JPEG file, whole or not there."""
    if not path.exists():
        file = io.BytesIO()
        photo(seed).save(file, "JPEG", quality=90)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_suffix(".part").write_bytes(file.getvalue())
        path.with_suffix(".part").rename(path)


def make_tree(folder: Path) -> None:
    """The tree, or what is missing of it."""
    names = [
        folder / split / f"class{number % CLASSES:03}" / f"{number:05}.JPEG"
        for split, count in (("train", TRAIN), ("val", TEST))
        for number in range(count)
    ]
    with ProcessPoolExecutor() as pool:
        list(pool.map(save_photo, names, range(len(names)), chunksize=16))


def main() -> None:
    """Make a tree."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path)
    make_tree(parser.parse_args().folder)


if __name__ == "__main__":
    main()
