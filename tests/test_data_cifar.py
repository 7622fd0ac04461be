import hashlib
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.datasets import CIFAR10

from rescaler.data import cifar
from rescaler.data.resident import ImageSet
from rescaler.errors import InputError

FOLDER = "cifar-10-batches-py"


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


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
    monkeypatch.setattr(
        CIFAR10, "train_list", [[name, md5(folder / name)] for name in ("data_batch_1", "data_batch_2")]
    )
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", md5(folder / "test_batch")]])
    monkeypatch.setattr(
        CIFAR10, "meta", {"filename": "batches.meta", "key": "label_names", "md5": md5(folder / "batches.meta")}
    )
    monkeypatch.setattr(CIFAR10, "tgz_md5", md5(archive))
    monkeypatch.setattr(CIFAR10, "url", "http://127.0.0.1:9/")
    return tmp_path / "remote"


def assert_is_the_small_set(images: ImageSet) -> None:
    numbers = torch.arange(11)
    for split, wanted in ((images.train, numbers[:8]), (images.test, numbers[8:])):
        assert split.images.shape == (len(wanted), 3, 32, 32)
        assert split.images.is_contiguous()
        assert torch.equal(split.labels, wanted % 10)
        for channel in range(3):
            assert torch.equal(split.images[:, channel, 0, 31].long(), wanted + 100 * channel)
            assert torch.equal(split.images[:, channel, 31, 0].long(), wanted + 100 * channel)
    assert images.classes == 10


def test_existing_folder(remote: Path) -> None:
    assert_is_the_small_set(cifar.load(remote, "cifar10"))


def test_archive_in_the_folder(remote: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (remote / CIFAR10.filename).rename(tmp_path / "data" / CIFAR10.filename)
    assert_is_the_small_set(cifar.load(tmp_path / "data", "cifar10"))
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == [FOLDER, CIFAR10.filename]


def test_download(
    remote: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(CIFAR10, "url", (remote / CIFAR10.filename).as_uri())
    monkeypatch.setattr("torchvision.datasets.utils._urlretrieve", fake_retrieve)
    assert_is_the_small_set(cifar.load(tmp_path / "data", "cifar10"))
    assert [path.name for path in (tmp_path / "data").iterdir()] == [FOLDER]
    assert capfd.readouterr() == ("", "")


def fake_retrieve(url: str, path: str) -> None:
    print("torchvision's progress")
    Path(path).write_bytes(Path(url.removeprefix("file://")).read_bytes())


@pytest.mark.usefixtures("remote")
def test_no_network(tmp_path: Path) -> None:
    message = (
        r"CIFAR10 is not in data\.folder=.*/data, .*Connection refused.*put cifar-10-python\.tar\.gz into the folder"
    )
    with pytest.raises(InputError, match=message):
        cifar.load(tmp_path / "data", "cifar10")


@pytest.mark.parametrize("name", ["data_batch_2", "test_batch", "batches.meta"])
def test_damaged_file_is_named(remote: Path, name: str) -> None:
    path = remote / FOLDER / name
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(InputError, match=rf"/{name} is missing or damaged: remove .*{FOLDER} to fetch it anew$"):
        cifar.load(remote, "cifar10")


def test_damaged_archive(remote: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / CIFAR10.filename).write_bytes((remote / CIFAR10.filename).read_bytes()[:-5])
    with pytest.raises(InputError, match=r"cifar-10-python\.tar\.gz is damaged: replace or remove it"):
        cifar.load(tmp_path / "data", "cifar10")
