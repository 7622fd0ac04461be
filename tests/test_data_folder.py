"""Images in files: the tree, decoding and its workers."""

import io
import multiprocessing
import os
import random
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from image_tree import plant, save
from PIL import Image
from processes import wait_until
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from rescaler.config import DataSettings
from rescaler.data import load_data, published_size, streaming
from rescaler.data.decoding import centre_crop, decode, preprocess, random_crop, shorter_px
from rescaler.data.folder import open_folder, read_tree
from rescaler.data.order import EVERY_IMAGE, Batch, EpochImages
from rescaler.data.streaming import FolderImages
from rescaler.data.workers import obey_parent, workers_alive
from rescaler.errors import InputError, one_line

CPU = torch.device("cpu")
SETTINGS = DataSettings(name="imagenet", image_px=32, classes=2, channels=3, mean=[0.0] * 3, std=[1.0] * 3, workers=0)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return plant(tmp_path)


def made(tree: Path, workers: int = 0, **changes: Any) -> FolderImages:
    return FolderImages(tree, replace(SETTINGS, workers=workers, **changes), CPU)


def train(
    data: FolderImages, image_px: int, epoch: int, start: int = 0, share: slice = EVERY_IMAGE, *, flip: bool = True
) -> Iterator[Batch]:
    return data.train_batches(
        EpochImages(
            image_px, 0, epoch, batches=4, batch_size=3, start=start, share=share, first=12 * (epoch - 1), flip=flip
        )
    )


def assert_equal(left: list[Batch], right: list[Batch]) -> None:
    assert len(left) == len(right)
    for (pixels, labels), (other_pixels, other_labels) in zip(left, right, strict=True):
        assert torch.equal(pixels, other_pixels)
        assert torch.equal(labels, other_labels)


@pytest.fixture
def reference(tree: Path) -> list[list[Batch]]:
    data = made(tree)
    return [list(train(data, 24, 1)), list(train(data, 32, 2)), list(data.test_batches(image_px=32, batch_size=3))]


def test_batches(reference: list[list[Batch]]) -> None:
    small, large, test = reference
    assert [tuple(pixels.shape) for pixels, _ in small] == [(3, 3, 24, 24)] * 4
    assert [tuple(pixels.shape) for pixels, _ in large] == [(3, 3, 32, 32)] * 4
    assert [tuple(pixels.shape) for pixels, _ in test] == [(3, 3, 32, 32), (1, 3, 32, 32)]
    assert torch.cat([labels for _, labels in test]).tolist() == [0, 0, 1, 1]
    first_pass = torch.cat([labels for _, labels in small])[:10]
    assert sorted(first_pass.tolist()) == [0] * 5 + [1] * 5
    assert all(pixels.dtype == torch.float32 and pixels.min() >= 0 and pixels.max() <= 1 for pixels, _ in small)


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_change_no_number_and_leave_the_generator_alone(
    tree: Path, reference: list[list[Batch]], workers: int
) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    others = set(multiprocessing.active_children())
    data = made(tree, workers)
    small = list(train(data, 24, 1))
    processes = set(multiprocessing.active_children())
    next(train(data, 24, 1))  # left behind in the middle
    test, large = list(data.test_batches(image_px=32, batch_size=3)), list(train(data, 32, 2))
    assert_equal(small, reference[0])
    assert_equal(large, reference[1])
    assert_equal(test, reference[2])
    assert_equal(list(train(data, 32, 2, start=3)), reference[1][3:])
    assert list(train(data, 32, 2, start=4)) == []
    assert set(multiprocessing.active_children()) == processes
    assert len(processes - others) == workers
    assert torch.equal(torch.get_rng_state(), before)


def test_shares_make_up_the_batches_and_nothing_else_is_read(tree: Path, reference: list[list[Batch]]) -> None:
    data = made(tree)
    for rank in range(2):
        share = slice(rank, None, 2)
        large = list(train(data, 32, 2, start=1, share=share))
        test = list(data.test_batches(image_px=32, batch_size=3, share=share))
        assert_equal(large, [(pixels[share], labels[share]) for pixels, labels in reference[1][1:]])
        assert_equal(test, [(pixels[share], labels[share]) for pixels, labels in reference[2]])
    _, second = sorted((tree / "val" / "n01440764").iterdir())
    second.write_bytes(b"damaged")
    assert len(list(data.test_batches(image_px=24, batch_size=2, share=slice(0, None, 2)))) == 2
    with pytest.raises(InputError, match=f"cannot read the image {second}"):
        list(data.test_batches(image_px=24, batch_size=2, share=slice(1, None, 2)))


def test_large_batches_of_test_images_are_decoded_in_parts(
    tree: Path, reference: list[list[Batch]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "_TEST_IMAGES", 2)
    assert_equal(list(made(tree).test_batches(image_px=32, batch_size=3)), reference[2])


def test_test_images_are_resized_by_8_7ths_and_cropped_at_the_centre(tree: Path) -> None:
    framed = Image.new("RGB", (128, 64), "white")
    framed.paste("black", (36, 4, 92, 60))  # 64 -> 32 -> the 28 in the middle: pixels 36 to 92 and 4 to 60 of the file
    for path in (tree / "val").rglob("*.JPEG"):
        framed.save(path, quality=100, subsampling=0)
    [(pixels, _)] = made(tree).test_batches(image_px=28, batch_size=4)
    assert pixels[:, :, 1:-1, 1:-1].max() < 0.05
    [(larger, _)] = made(tree).test_batches(image_px=30, batch_size=4)  # 64 -> 34 -> 30 shows the frame
    assert larger[:, :, 0].min() > 0.05


@pytest.mark.parametrize("channels", [1, 3])
def test_small_images_in_memory_are_whole_but_for_the_longer_side(tree: Path, channels: int) -> None:
    settings = replace(SETTINGS, name="folder", in_memory=True, image_px=48, channels=channels, folder=str(tree))
    settings = replace(settings, mean=[0.0] * channels, std=[1.0] * channels)
    data = load_data(settings, CPU)

    assert (data.train_count, data.test_count, published_size(settings)) == (10, 4, 10)
    assert list(data.class_names) == ["n01440764", "n01443537"]
    ((images, labels),) = data.test_batches(image_px=48, batch_size=4)
    assert labels.tolist() == [0, 0, 1, 1]
    picture = tree / "val" / "n01440764" / "n01440764_0.JPEG"
    middle = np.asarray(Image.open(picture).crop((6, 0, 54, 48)).convert("RGB" if channels == 3 else "L"))
    assert np.allclose(255 * images[0].permute(1, 2, 0).squeeze().numpy(), middle, atol=1)
    ((images, _),) = data.test_batches(image_px=20, batch_size=4)
    assert torch.equal(preprocess(picture, settings, 20, cropped=False), images[0])
    (tree / "train" / "n01440764" / "n01440764_3.JPEG").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"^cannot read the image .*_3\.JPEG: no image, or of no known kind$"):
        load_data(replace(settings, image_px=20), CPU)


def test_a_name_that_is_no_utf8_is_escaped_where_it_is_kept(tree: Path) -> None:
    (tree / "val" / "n01443537" / os.fsdecode("Flügel.JPEG".encode("latin-1"))).touch()
    with pytest.raises(InputError) as raised:
        list(made(tree).test_batches(image_px=24, batch_size=2))
    assert r"Fl\xfcgel.JPEG" in one_line(raised.value)


@pytest.mark.parametrize("workers", [0, 2])
def test_damaged_image_is_named_in_one_line(tree: Path, workers: int) -> None:
    path = tree / "train" / "n01443537" / "n01443537_3.JPEG"
    path.write_bytes(path.read_bytes()[:-200])
    data = made(tree, workers)
    # No "as raised": it would keep the workers until the garbage is collected, which has to wait for them.
    hint = "; `rescaler prepare` leaves such files out"
    with pytest.raises(InputError, match=rf"\Acannot read the image {path}: image file is truncated[^\n]*{hint}\Z"):
        list(train(data, 24, 1))
    assert len(list(data.test_batches(image_px=24, batch_size=4))) == 1


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_there_is_no_memory_to_crop_is_named(
    tree: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr("rescaler.data.streaming.random_crop", fail)
    with pytest.raises(InputError, match=r"\Acannot read the image .*\.JPEG: DefaultCPUAllocator[^\n]*\Z"):
        list(train(made(tree, workers), 24, 1))


def test_an_older_iterator_is_not_continued(tree: Path) -> None:
    data = made(tree)
    older, newer = train(data, 24, 1), train(data, 24, 2)
    next(older)
    next(newer)
    with pytest.raises(RuntimeError, match="continued after a newer one was started"):
        next(older)


def test_fingerprint_names_classes_and_files(tree: Path) -> None:
    first = made(tree).fingerprint
    assert made(tree).fingerprint == first
    path = tree / "train" / "n01443537" / "n01443537_3.JPEG"
    path.rename(path.with_name("other.JPEG"))
    assert made(tree).fingerprint != first


def test_hidden_files_are_no_images_and_others_are_counted(tree: Path, caplog: pytest.LogCaptureFixture) -> None:
    before = read_tree(tree, classes=2)
    for place in ("train/.ipynb_checkpoints", "train/n01440764/.ipynb_checkpoints", "val/n01440764"):
        save(tree / place / ".hidden.JPEG", seed=1)
        save(tree / place / "seen.JPEG", seed=1)
    for name in ("an.gif", "other.GIF", "LICENSE", ".DS_Store"):
        (tree / "train" / "n01440764" / name).touch()
    after = read_tree(tree, classes=2)
    assert after.train.names.tolist() == before.train.names.tolist()
    assert len(after.test.names) == len(before.test.names) + 1
    assert after.train.others == {".gif": 2, "LICENSE": 1}
    assert after.test.others == {}
    for _ in range(2):
        open_folder(tree, DataSettings(classes=2), shorter_px=32)
    assert caplog.messages == [f"data.folder={tree}: not taken for images: 2 .gif, 1 LICENSE"]


def test_all_generators_follow_from_the_sample(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def drawn(_: Tensor, image_px: int, *, flip: bool) -> Tensor:
        assert not flip
        draws = [int(256 * np.random.random()), int(256 * random.random()), int(256 * torch.rand(()))]  # noqa: NPY002
        return torch.tensor(draws, dtype=torch.uint8).view(3, 1, 1).expand(3, image_px, image_px)

    monkeypatch.setattr(streaming, "random_crop", drawn)
    states = random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index] # noqa: NPY002
    epochs = [torch.cat([pixels for pixels, _ in train(made(tree, workers), 24, 1, flip=False)]) for workers in (0, 2)]
    assert torch.equal(*epochs)
    for channel in range(3):
        assert len(set(epochs[0][:, channel, 0, 0].tolist())) > 8
    assert states == (random.getstate(), np.random.get_state()[1].tolist())  # type: ignore[index] # noqa: NPY002


LAYOUT = r"data\.folder=.* must hold train/<class>/.* and val/<class>/.*, or <class>/\*\.JPEG with data\.holdout; "


@pytest.mark.parametrize(
    ("change", "settings", "message"),
    [
        (lambda tree: (tree / "train").rename(tree / "training"), {}, rf"{LAYOUT}.*/train: No such file"),
        (lambda tree: (tree / "val").rename(tree / "validation"), {}, r"data\.holdout must be above 0 .*got 0\.0"),
        (lambda tree: (tree / "train" / "new").mkdir(), {}, "every class must have an image .*/train: none in new"),
        (
            lambda tree: (tree / "val" / "n01443537").rename(tree / "val" / "n01484850"),
            {},
            "must have the same classes; only one has n01443537, n01484850",
        ),
        (Path.exists, {"classes": 1000}, r"/train has 2 classes; data\.classes is 1000"),
        (Path.exists, {"channels": 1}, r"data\.channels must be 3 for a folder of images, or 1 .*; got 1"),
    ],
)
def test_incomplete_trees_and_other_settings_are_refused(
    tree: Path, change: Callable[[Path], Any], settings: dict[str, Any], message: str
) -> None:
    change(tree)
    with pytest.raises(InputError, match=rf"\A[^\n]*{message}[^\n]*\Z"):
        FolderImages(tree, replace(SETTINGS, **settings), CPU)


# Decoding.


def encoded(image: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def coloured(width: int = 50, height: int = 40) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)


@pytest.mark.parametrize(
    "options", [{"quality": 90}, {"quality": 75, "subsampling": 0}, {"progressive": True}, {"kind": "PNG"}], ids=str
)
def test_pixels_are_pillows(options: dict[str, Any]) -> None:
    content = encoded(coloured(), **options)
    pixels = np.asarray(Image.open(io.BytesIO(content)))
    assert torch.equal(decode(content), torch.tensor(pixels).permute(2, 0, 1))
    assert torch.equal(decode(memoryview(content)), decode(content))


def solid(mode: str, value: Any) -> Image.Image:
    return Image.new(mode, (6, 4), value)


@pytest.mark.parametrize(
    ("image", "colour"),
    [
        (solid("1", 1), (255, 255, 255)),
        (solid("L", 7), (7, 7, 7)),
        (solid("I;16", 128 * 257), (128, 128, 128)),  # 257 = 65535 / 255
        (solid("RGBA", (200, 100, 0, 51)), (244, 224, 204)),  # a fifth of it, over four fifths of white
        (solid("LA", (0, 0)), (255, 255, 255)),
        (solid("P", 0), (0, 0, 0)),
        (solid("RGB", (10, 20, 30)).quantize(4), (10, 20, 30)),
    ],
    ids=lambda value: getattr(value, "mode", None),
)
def test_every_mode_has_its_own_range(image: Image.Image, colour: tuple[int, int, int]) -> None:
    pixels = decode(encoded(image, "PNG"))
    assert pixels.shape == (3, 4, 6)
    assert pixels[:, 1, 1].tolist() == list(colour)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (encoded(coloured())[:-50], "truncated"),
        (b"no image", "no image, or of no known kind"),
        (encoded(solid("I", 7), "TIFF"), r"no stated range \(Pillow's mode I\)"),
        (encoded(solid("F", 7), "TIFF"), r"no stated range \(Pillow's mode F\)"),
    ],
)
def test_an_image_that_cannot_be_read_is_refused_in_one_line(content: bytes, message: str) -> None:
    with pytest.raises(InputError, match=rf"\A[^\n]*{message}[^\n]*\Z"):
        decode(content)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_images_are_turned_as_their_camera_was(kind: str) -> None:
    image, exif = coloured(), Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    expected = decode(encoded(image, kind)).rot90(-1, (1, 2))
    assert torch.equal(decode(encoded(image, kind, exif=exif)), expected)
    exif[0x0112] = 1
    assert torch.equal(decode(encoded(image, kind, exif=exif)), decode(encoded(image, kind)))


def test_a_long_and_narrow_image_takes_little_memory() -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    cropped = centre_crop(torch.full((3, 1, 30_000), 7, dtype=torch.uint8), 224)
    assert (cropped == 7).all()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB


def test_random_crops_are_parts_of_the_image() -> None:
    """In an image whose pixels tell their column, a crop is a ramp whose ends say from where it was cut."""
    ramp = torch.arange(200, dtype=torch.uint8).expand(3, 150, 200)
    torch.manual_seed(0)
    widths, flipped = [], 0
    for _ in range(300):
        row = random_crop(ramp, 32, flip=True)[0, 16].int()
        steps = row.diff()
        assert (steps >= 0).all() or (steps <= 0).all()
        widths.append(abs(int(row[-1] - row[0])) / 31 * 32)
        flipped += int(row[-1] < row[0])
    assert 110 < flipped < 190
    # 8 to 100 % of 200x150 pixels at an aspect ratio of 3/4 to 4/3: sqrt(0.08 * 30,000 * 3/4) = 42 pixels wide or more.
    assert 40 <= min(widths) < 60
    assert 180 < max(widths) <= 201
    assert all((random_crop(ramp, 32, flip=False)[0, 16].int().diff() >= 0).all() for _ in range(20))


def test_centre_crop_of_an_image_that_has_the_size_changes_no_pixel() -> None:
    pixels = torch.randint(0, 256, (3, 32, 40), dtype=torch.uint8)
    assert [shorter_px(px) for px in (28, 160, 224)] == [32, 183, 256]
    assert torch.equal(centre_crop(pixels, 28), pixels[:, 2:30, 6:34])


# Workers.


ORPHANS = """
import os, signal
from test_data_folder import Items, workers
from torch.utils.data import DataLoader
from rescaler.data.workers import obey_parent

options = {"num_workers": 1, "prefetch_factor": 16, "worker_init_fn": obey_parent}
pending = iter(DataLoader(Items(1_000_000), batch_size=None, **options))
open("pid", "w").write(str(workers()[0]))
next(pending)
os.kill(os.getpid(), signal.SIGKILL)
"""
"""A process that is killed while its worker, on a full pipe, waits for it."""


class Items(Dataset[bytes]):
    """Items of some bytes each."""

    def __init__(self, size: int) -> None:
        self._size = size

    def __getitem__(self, index: int) -> bytes:
        return bytes(self._size)

    def __len__(self) -> int:
        return 100


def workers() -> list[int]:
    """Numbers of the processes that this one has started."""
    return [int(number) for number in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]


@pytest.fixture
def loader() -> DataLoader[bytes]:
    return DataLoader(Items(1), batch_size=None, num_workers=1, worker_init_fn=obey_parent)


def test_a_worker_ends_for_its_parent_alone(loader: DataLoader[bytes]) -> None:
    items = workers_alive(loader)
    next(items)
    (worker,) = workers()
    subprocess.run(["kill", "-TERM", str(worker)], check=True)  # as the system does to all processes of a job
    assert len(list(items)) == 99
    items = workers_alive(loader)
    next(items)
    (worker,) = workers()
    os.kill(worker, signal.SIGTERM)
    _, status = os.waitpid(worker, 0)
    assert os.waitstatus_to_exitcode(status) == 0


def test_a_worker_of_a_fork_server_ends_for_its_parent() -> None:
    options = {"num_workers": 1, "worker_init_fn": obey_parent, "multiprocessing_context": "forkserver"}
    pending = iter(DataLoader(Items(1), batch_size=None, **options))  # type: ignore[arg-type]
    next(pending)
    (worker,) = pending._workers  # type: ignore[attr-defined]
    worker.terminate()
    worker.join(timeout=10)
    assert worker.exitcode == 0


def test_a_worker_ends_with_its_parent(tmp_path: Path) -> None:
    paths = {"PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run(
        [sys.executable, "-c", ORPHANS], cwd=tmp_path, env=os.environ | paths, stderr=subprocess.DEVNULL, check=False
    )
    worker = int((tmp_path / "pid").read_text())
    wait_until(lambda: not Path(f"/proc/{worker}").exists(), "the worker has ended")
