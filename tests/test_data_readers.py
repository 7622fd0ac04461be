"""The small sets: Fashion-MNIST and CIFAR from each of their sources, and the synthetic one."""

import gzip
import hashlib
import logging
import os
import pickle
import re
import shutil
import struct
import tarfile
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.datasets import CIFAR10, FashionMNIST

from rescaler.config import DataSettings
from rescaler.data import readers
from rescaler.data.resident import ImageSet, resize
from rescaler.errors import InputError


def fashion_mnist(folder: Path) -> ImageSet:
    return readers.fashion_mnist(folder, DataSettings())


def cifar(folder: Path) -> ImageSet:
    return readers.cifar(folder, DataSettings(name="cifar10"))


RAW = Path("FashionMNIST", "raw")
COUNTS = {"train": 12, "t10k": 6}
DEBIAN, PUBLISHED = readers.DEBIAN_FOLDER, readers._FILES


def idx(shape: tuple[int, ...], content: bytes) -> bytes:
    return struct.pack(f">BBBB{len(shape)}I", 0, 0, 8, len(shape), *shape) + content


def files() -> dict[str, bytes]:
    """A small set in which every image is filled with 20 times its label."""
    result = {}
    for part, count in COUNTS.items():
        labels = [number % 10 for number in range(count)]
        pixels = b"".join(bytes([20 * label]) * 28 * 28 for label in labels)
        result[f"{part}-images-idx3-ubyte"] = idx((count, 28, 28), pixels)
        result[f"{part}-labels-idx1-ubyte"] = idx((count,), bytes(labels))
    return result


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def write(folder: Path, *, compressed: bool = True) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files().items():
        path = folder / (f"{name}.gz" if compressed else name)
        path.write_bytes(gzip.compress(content) if compressed else content)
    return folder


def assert_is_the_small_fashion_mnist(images: ImageSet) -> None:
    for split, count in ((images.train, 12), (images.test, 6)):
        assert split.images.shape == (count, 1, 28, 28)
        assert split.images.dtype == torch.uint8
        assert split.labels.tolist() == [number % 10 for number in range(count)]
        assert torch.equal(split.images.amin(dim=(1, 2, 3)).long(), 20 * split.labels)
        assert torch.equal(split.images.amax(dim=(1, 2, 3)).long(), 20 * split.labels)
    assert images.classes == 10


@pytest.fixture(autouse=True)
def no_source(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing is installed and nothing can be downloaded; each test opens the source that it is about."""
    monkeypatch.setattr(readers, "DEBIAN_FOLDER", tmp_path / "usr/share/datasets/fashion-mnist")
    small = {
        name: ((28, 28) if "images" in name else (), hashlib.sha256(content).hexdigest())
        for name, content in files().items()
    }
    monkeypatch.setattr(readers, "_FILES", small)
    monkeypatch.setattr(FashionMNIST, "mirrors", ["http://127.0.0.1:9/"])
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))


@pytest.mark.parametrize(("place", "compressed"), [(RAW, True), (Path(), False)])
def test_existing_folder(tmp_path: Path, place: Path, compressed: bool, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    write(tmp_path / "data" / place, compressed=compressed)
    assert_is_the_small_fashion_mnist(fashion_mnist(tmp_path / "data"))
    assert f"read from {tmp_path / 'data' / place}" in caplog.text


def test_debian_package_that_is_installed(tmp_path: Path) -> None:
    write(readers.DEBIAN_FOLDER)
    assert_is_the_small_fashion_mnist(fashion_mnist(tmp_path / "data"))
    assert not (tmp_path / "data").exists()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> None:
    """Download from URLs of files, too, as noisily as torchvision does."""

    def retrieve(url: str, path: str) -> None:
        print("torchvision's progress")
        Path(path).write_bytes(Path(url.removeprefix("file://")).read_bytes())

    monkeypatch.setattr("torchvision.datasets.utils._urlretrieve", retrieve)


@pytest.mark.usefixtures("server")
def test_torchvision_download(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    remote = write(tmp_path / "remote")
    monkeypatch.setattr(FashionMNIST, "resources", [(path.name, md5(path)) for path in remote.iterdir()])
    monkeypatch.setattr(FashionMNIST, "mirrors", [f"{remote.as_uri()}/"])
    assert_is_the_small_fashion_mnist(fashion_mnist(tmp_path / "data"))
    assert capfd.readouterr() == ("", "")
    shutil.rmtree(remote)
    assert_is_the_small_fashion_mnist(fashion_mnist(tmp_path / "data"))  # kept
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["FashionMNIST"]


APT_GET = """#!/bin/sh
for last; do :; done
case "$*" in
*update*) : > {stamp} ;;
*download*) [ -e {stamp} ] || {{ echo "E: Unable to locate package $last" >&2; exit 100; }}
    : > "$last"_1_all.deb ;;
esac
"""
DPKG_DEB = """#!/bin/sh
[ "$1 $2" = "-x dataset-fashion-mnist_1_all.deb" ] || exit 2
{mkdir} -p "$3{place}"
{cp} {remote}/* "$3{place}"
"""


@pytest.mark.parametrize("known", [True, False], ids=["listed", "after an update of private lists"])
def test_debian_package_unpacked_without_root(tmp_path: Path, known: bool) -> None:
    remote, stamp, bin_folder = write(tmp_path / "remote"), tmp_path / "updated", tmp_path / "bin"
    bin_folder.mkdir()
    tools = {tool: shutil.which(tool, path=os.defpath) for tool in ("mkdir", "cp")}
    place = readers.DEBIAN_FOLDER
    for name, script in (
        ("apt-get", APT_GET.format(stamp=stamp)),
        ("dpkg-deb", DPKG_DEB.format(place=place, remote=remote, **tools)),
    ):
        (bin_folder / name).write_text(script)
        (bin_folder / name).chmod(0o755)
    if known:
        stamp.touch()
    assert_is_the_small_fashion_mnist(fashion_mnist(tmp_path / "data"))
    assert sorted(path.name for path in (tmp_path / "data" / RAW).iterdir()) == sorted(f"{name}.gz" for name in files())


def test_no_source_has_it(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match=r"Fashion-MNIST is neither in data\.folder=.*/data nor in") as raised:
        fashion_mnist(tmp_path / "data")
    message = str(raised.value)
    assert "\n" not in message
    assert re.search(r"torchvision's download \(.*<urlopen error \[Errno 111\] Connection refused>\)", message)
    assert "Debian's package dataset-fashion-mnist ([Errno 2] No such file or directory: 'apt-get')" in message
    assert capfd.readouterr() == ("", "")
    assert list((tmp_path / "data").iterdir()) == []


def test_two_processes_fetch_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    both_downloaded = threading.Barrier(2)

    def fetch(temporary: Path) -> Path:
        write(temporary / RAW)
        both_downloaded.wait(timeout=10)
        return temporary / RAW

    monkeypatch.setattr(readers, "_from_torchvision", fetch)
    with ThreadPoolExecutor(2) as pool:
        for images in pool.map(fashion_mnist, [tmp_path / "data"] * 2):
            assert_is_the_small_fashion_mnist(images)


def test_unwritable_folder(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file, not a folder")
    with pytest.raises(InputError, match=r"^cannot write .*/data: File exists$"):
        fashion_mnist(tmp_path / "data")


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("train-images-idx3-ubyte", lambda whole: whole[:5000] + b"\1" + whole[5001:], "check sum"),
        ("train-images-idx3-ubyte.gz", lambda whole: gzip.compress(whole)[:-20], "damaged .*Compressed file ended"),
        ("train-images-idx3-ubyte.gz", lambda _: b"<html>not found</html>", "damaged .*Not a gzipped file"),
        ("t10k-labels-idx1-ubyte", lambda whole: whole[:-1] + b"\4", "check sum"),
    ],
)
def test_damaged_file_is_named(tmp_path: Path, name: str, damage: Callable[[bytes], bytes], message: str) -> None:
    folder = write(tmp_path / "data", compressed=name.endswith(".gz"))
    (folder / name).write_bytes(damage(files()[name.removesuffix(".gz")]))
    with pytest.raises(InputError, match=rf"/data/{name} .*{message}") as raised:
        fashion_mnist(folder)
    assert "\n" not in str(raised.value)


@pytest.mark.skipif(not DEBIAN.is_dir(), reason="Debian's dataset-fashion-mnist is not installed")
def test_the_real_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "DEBIAN_FOLDER", DEBIAN)
    monkeypatch.setattr(readers, "_FILES", PUBLISHED)
    images = fashion_mnist(tmp_path / "data")
    assert torch.bincount(images.train.labels).tolist() == [6000] * 10
    assert torch.bincount(images.test.labels).tolist() == [1000] * 10
    pixels = images.train.images.float() / 255
    assert pixels.mean().item() == pytest.approx(0.2860, abs=1e-4)  # the published mean and deviation
    assert pixels.std().item() == pytest.approx(0.3530, abs=1e-4)


# CIFAR.

FOLDER = "cifar-10-batches-py"


@pytest.fixture
def remote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small CIFAR-10 in the published format; image i has red i, green 100 + i, blue 200 + i."""
    folder = tmp_path / "remote" / FOLDER
    folder.mkdir(parents=True)
    for name, first, count in (("data_batch_1", 0, 4), ("data_batch_2", 4, 4), ("test_batch", 8, 3)):
        numbers = np.arange(first, first + count, dtype=np.uint8)[:, None]
        data = np.concatenate([np.repeat(numbers + base, 32 * 32, axis=1) for base in (0, 100, 200)], axis=1)
        content = {"data": data, "labels": [int(number) % 10 for number in numbers[:, 0]]}
        (folder / name).write_bytes(pickle.dumps(content))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": [str(number) for number in range(10)]}))
    archive = tmp_path / "remote" / CIFAR10.filename
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, FOLDER)
    sums = {path.name: md5(path) for path in folder.iterdir()}
    for name, value in {
        "train_list": [[name, sums[name]] for name in ("data_batch_1", "data_batch_2")],
        "test_list": [["test_batch", sums["test_batch"]]],
        "meta": {"filename": "batches.meta", "key": "label_names", "md5": sums["batches.meta"]},
        "tgz_md5": md5(archive),
        "url": "http://127.0.0.1:9/",
    }.items():
        monkeypatch.setattr(CIFAR10, name, value)
    return tmp_path / "remote"


def assert_is_the_small_cifar(images: ImageSet) -> None:
    numbers = torch.arange(11)
    for split, wanted in ((images.train, numbers[:8]), (images.test, numbers[8:])):
        assert split.images.shape == (len(wanted), 3, 32, 32)
        assert split.images.is_contiguous()
        assert torch.equal(split.labels, wanted % 10)
        for channel in range(3):
            assert torch.equal(split.images[:, channel, 0, 31].long(), wanted + 100 * channel)
            assert torch.equal(split.images[:, channel, 31, 0].long(), wanted + 100 * channel)
    assert images.classes == 10


def test_cifar_existing_folder(remote: Path) -> None:
    assert_is_the_small_cifar(cifar(remote))


@pytest.mark.usefixtures("server")
def test_cifar_download(
    remote: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(CIFAR10, "url", (remote / CIFAR10.filename).as_uri())
    assert_is_the_small_cifar(cifar(tmp_path / "data"))
    assert [path.name for path in (tmp_path / "data").iterdir()] == [FOLDER]
    assert capfd.readouterr() == ("", "")


@pytest.mark.usefixtures("remote")
def test_cifar_no_network(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"CIFAR10 is not in data\.folder=.*/data, .*Connection refused.*put cifar"):
        cifar(tmp_path / "data")


def test_archive_in_the_folder(remote: Path, tmp_path: Path) -> None:
    folder, content = tmp_path / "data", (remote / CIFAR10.filename).read_bytes()
    folder.mkdir()
    (folder / CIFAR10.filename).write_bytes(content[:-5])
    with pytest.raises(InputError, match=r"cifar-10-python\.tar\.gz is damaged: replace or remove it"):
        cifar(folder)
    (folder / CIFAR10.filename).write_bytes(content)
    assert_is_the_small_cifar(cifar(folder))
    assert sorted(path.name for path in folder.iterdir()) == [FOLDER, CIFAR10.filename]


@pytest.mark.parametrize("name", ["data_batch_2", "batches.meta"])
def test_cifar_damaged_file_is_named(remote: Path, name: str) -> None:
    path = remote / FOLDER / name
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(InputError, match=rf"/{name} is missing or damaged: remove .*{FOLDER} to fetch it anew$"):
        cifar(remote)


# Synthetic.

SYNTHETIC = DataSettings(name="synthetic", image_px=20, classes=5, channels=3, train_images=600, test_images=300)


@pytest.mark.parametrize("image_px", [20, 10])
def test_classes_can_be_learnt_at_both_sizes(image_px: int) -> None:
    made = readers.synthetic(Path(), SYNTHETIC)
    train, test = (resize(split.images, image_px).float().flatten(1) for split in (made.train, made.test))
    means = torch.stack([train[made.train.labels == label].mean(dim=0) for label in range(5)])
    nearest = torch.cdist(test, means).argmin(dim=1)
    assert (nearest == made.test.labels).float().mean() > 0.95


def test_shape_balance_and_determinism() -> None:
    made, again = readers.synthetic(Path(), SYNTHETIC), readers.synthetic(Path(), SYNTHETIC)
    assert made.train.images.shape == (600, 3, 20, 20)
    assert made.train.images.dtype == torch.uint8
    assert torch.bincount(made.test.labels).tolist() == [60] * 5
    assert torch.equal(made.train.images, again.train.images)
    assert not torch.equal(made.train.images[:300], made.test.images)


def test_an_empty_set_is_refused() -> None:
    with pytest.raises(InputError, match=r"data\.test_images must be at least 1 for the synthetic set; got 0"):
        readers.synthetic(Path(), replace(SYNTHETIC, test_images=0))
