import contextlib
import functools
import gzip
import hashlib
import http.server
import logging
import os
import shutil
import struct
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torchvision.datasets import FashionMNIST

from rescaler.data import fashion_mnist
from rescaler.data.resident import ImageSet
from rescaler.errors import InputError

RAW = Path("FashionMNIST", "raw")
COUNTS = {"train": 12, "t10k": 6}
DEBIAN = fashion_mnist.DEBIAN_FOLDER


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


def write(folder: Path, *, compressed: bool = True) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files().items():
        path = folder / (f"{name}.gz" if compressed else name)
        path.write_bytes(gzip.compress(content) if compressed else content)
    return folder


def assert_is_the_small_set(images: ImageSet) -> None:
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
    monkeypatch.setattr(fashion_mnist, "DEBIAN_FOLDER", tmp_path / "usr/share/datasets/fashion-mnist")
    monkeypatch.setattr(FashionMNIST, "mirrors", ["http://127.0.0.1:9/"])
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))


@pytest.mark.parametrize("place", [RAW, Path()])
@pytest.mark.parametrize("compressed", [True, False])
def test_existing_folder(tmp_path: Path, place: Path, compressed: bool, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    write(tmp_path / "data" / place, compressed=compressed)
    assert_is_the_small_set(fashion_mnist.load(tmp_path / "data"))
    assert f"read from {tmp_path / 'data' / place}" in caplog.text


def test_debian_package_that_is_installed(tmp_path: Path) -> None:
    write(fashion_mnist.DEBIAN_FOLDER)
    assert_is_the_small_set(fashion_mnist.load(tmp_path / "data"))
    assert not (tmp_path / "data").exists()


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


def test_torchvision_download(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    remote = write(tmp_path / "remote")
    checksums = [(path.name, hashlib.md5(path.read_bytes()).hexdigest()) for path in remote.iterdir()]
    monkeypatch.setattr(FashionMNIST, "resources", checksums)
    with served(remote) as url:
        monkeypatch.setattr(FashionMNIST, "mirrors", [url])
        assert_is_the_small_set(fashion_mnist.load(tmp_path / "data"))
    assert capfd.readouterr() == ("", "")
    assert_is_the_small_set(fashion_mnist.load(tmp_path / "data"))  # kept: the server is gone
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
    place = fashion_mnist.DEBIAN_FOLDER
    for name, script in (
        ("apt-get", APT_GET.format(stamp=stamp)),
        ("dpkg-deb", DPKG_DEB.format(place=place, remote=remote, **tools)),
    ):
        (bin_folder / name).write_text(script)
        (bin_folder / name).chmod(0o755)
    if known:
        stamp.touch()
    assert_is_the_small_set(fashion_mnist.load(tmp_path / "data"))
    assert sorted(path.name for path in (tmp_path / "data" / RAW).iterdir()) == sorted(f"{name}.gz" for name in files())


def test_no_source_has_it(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match=r"Fashion-MNIST is neither in data\.folder=.*/data nor in") as raised:
        fashion_mnist.load(tmp_path / "data")
    message = str(raised.value)
    assert "\n" not in message
    assert "torchvision's download (<urlopen error [Errno 111] Connection refused>)" in message
    assert "Debian's package dataset-fashion-mnist ([Errno 2] No such file or directory: 'apt-get')" in message
    assert capfd.readouterr() == ("", "")
    assert list((tmp_path / "data").iterdir()) == []


def test_two_processes_fetch_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    both_downloaded = threading.Barrier(2)

    def fetch(temporary: Path) -> Path:
        write(temporary / RAW)
        both_downloaded.wait(timeout=10)
        return temporary / RAW

    monkeypatch.setattr(fashion_mnist, "_from_torchvision", fetch)
    with ThreadPoolExecutor(2) as pool:
        for images in pool.map(fashion_mnist.load, [tmp_path / "data"] * 2):
            assert_is_the_small_set(images)


def test_unwritable_folder(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file, not a folder")
    with pytest.raises(InputError, match=r"cannot write .*/data: File exists"):
        fashion_mnist.load(tmp_path / "data")


Damage = Callable[[bytes], bytes]


def compressed(change: Damage) -> Damage:
    return lambda content: gzip.compress(change(content))


def truncated(content: bytes) -> bytes:
    return content[:-5]


def header_of_labels(content: bytes) -> bytes:
    return b"\0\0\x08\x01" + content[4:]


def smaller_images(_: bytes) -> bytes:
    return idx((12, 14, 14), bytes(12 * 14 * 14))


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("train-images-idx3-ubyte", truncated, r"damaged \(9419 bytes, 9424 expected\)"),
        ("train-images-idx3-ubyte.gz", compressed(truncated), r"damaged \(9419 bytes, 9424 expected\)"),
        ("train-images-idx3-ubyte.gz", lambda content: gzip.compress(content)[:-20], "damaged .*Compressed file ended"),
        ("train-images-idx3-ubyte.gz", lambda _: b"<html>not found</html>", "damaged .*Not a gzipped file"),
        ("train-images-idx3-ubyte", header_of_labels, "damaged .*not an idx file with 3 dimensions"),
        ("train-images-idx3-ubyte", lambda _: b"", "damaged .*not an idx file with 3 dimensions"),
        ("train-images-idx3-ubyte", smaller_images, r"items of shape \(28, 28\); its header says 12 of \(14, 14\)"),
        ("t10k-labels-idx1-ubyte", lambda _: idx((6,), bytes([0, 1, 2, 3, 4, 10])), "label 10, at most 9 expected"),
        ("t10k-labels-idx1-ubyte", lambda _: idx((5,), bytes(5)), "has 5 labels for 6 images"),
    ],
)
def test_damaged_file_is_named(tmp_path: Path, name: str, damage: Damage, message: str) -> None:
    folder = write(tmp_path / "data", compressed=name.endswith(".gz"))
    (folder / name).write_bytes(damage(files()[name.removesuffix(".gz")]))
    with pytest.raises(InputError, match=rf"/data/{name} .*{message}") as raised:
        fashion_mnist.load(folder)
    assert "\n" not in str(raised.value)


@pytest.mark.skipif(not DEBIAN.is_dir(), reason="Debian's dataset-fashion-mnist is not installed")
def test_the_real_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fashion_mnist, "DEBIAN_FOLDER", DEBIAN)
    images = fashion_mnist.load(tmp_path / "data")
    assert torch.bincount(images.train.labels).tolist() == [6000] * 10
    assert torch.bincount(images.test.labels).tolist() == [1000] * 10
    pixels = images.train.images.float() / 255
    assert pixels.mean().item() == pytest.approx(0.2860, abs=1e-4)  # the published mean and deviation
    assert pixels.std().item() == pytest.approx(0.3530, abs=1e-4)
