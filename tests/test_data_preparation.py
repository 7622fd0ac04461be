import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from image_tree import plant, save
from PIL import Image

from rescaler.config import DataSettings
from rescaler.data.decoding import decode
from rescaler.data.folder import read_tree
from rescaler.data.order import Batch, EpochImages
from rescaler.data.preparation import Preparation
from rescaler.data.prepared import Manifest, PreparedSplit
from rescaler.data.streaming import FolderImages
from rescaler.errors import InputError

CPU = torch.device("cpu")
SETTINGS = DataSettings(name="imagenet", image_px=28, classes=2, channels=3, mean=[0.0] * 3, std=[1.0] * 3, workers=0)
SIZES = [24, 32]  # what stages of 21 and 28 pixels need


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return plant(tmp_path / "tree")


@pytest.fixture(autouse=True)
def _small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rescaler.data.preparation._FILE_IMAGES", 4)
    monkeypatch.setattr("rescaler.data.preparation._BATCH_IMAGES", 3)


def made(tree: Path, out: Path | None = None, sizes: list[int] = SIZES, workers: int = 0) -> Preparation:
    return Preparation(read_tree(tree, classes=2), out or tree / "prepared", sizes, workers)


def silent(done: int, total: int) -> None:
    pass


def interrupted_after(images: int) -> Callable[[int, int], None]:
    def progress(done: int, total: int) -> None:  # noqa: ARG001
        if done > images:
            raise KeyboardInterrupt

    return progress


@pytest.fixture
def prepared(tree: Path) -> Path:
    made(tree).run(silent)
    return tree / "prepared"


def opened(folder: Path, **settings: Any) -> FolderImages:
    return FolderImages(folder, replace(SETTINGS, **settings), CPU)


def split_of(folder: Path, name: str) -> PreparedSplit:
    return PreparedSplit(folder, Manifest.read(folder).parts_of(name), SIZES)


def train(data: FolderImages, *, batches: int = 4, batch_size: int = 5, start: int = 0) -> list[Batch]:
    images = EpochImages(image_px=21, seed=0, epoch=1, batches=batches, batch_size=batch_size, start=start)
    return list(data.train_batches(images))


def whole_test_set(data: FolderImages, image_px: int = 28) -> Batch:
    [batch] = data.test_batches(image_px=image_px, batch_size=4)
    return batch


def test_a_prepared_set_yields_the_images_of_the_tree(tree: Path) -> None:
    calls: list[tuple[int, int]] = []
    manifest = made(tree).run(lambda done, total: calls.append((done, total)))
    assert calls == [(number, 14) for number in range(1, 15)]
    assert [(part.file, part.images) for part in manifest.parts] == [
        ("train-00000.arrow", 4),
        ("train-00001.arrow", 4),
        ("train-00002.arrow", 2),
        ("val-00000.arrow", 4),
    ]
    data, original = opened(tree / "prepared"), opened(tree)
    assert (data.train_count, data.test_count) == (10, 4)
    for image_px in (21, 28):
        pixels, labels = whole_test_set(data, image_px)
        original_pixels, original_labels = whole_test_set(original, image_px)
        assert torch.equal(labels, original_labels)
        assert (pixels - original_pixels).abs().mean() < 0.02  # what JPEG at quality 90 costs
    for (pixels, labels), (_, original_labels) in zip(train(data), train(original), strict=True):
        assert pixels.shape == (5, 3, 21, 21)
        assert torch.equal(labels, original_labels)
    [(rest, _)] = train(data, start=3)
    assert torch.equal(rest, train(data)[3][0])


def test_a_stage_reads_the_smallest_image_that_suffices_and_none_is_enlarged(tree: Path) -> None:
    Image.new("RGB", (30, 26)).save(tree / "train" / "n01440764" / "n01440764_0.JPEG")
    made(tree).run(silent)
    split = split_of(tree / "prepared", "train")
    for wanted, got in ((10, 24), (24, 24), (25, 32), (32, 32)):
        for index in range(1, 10):
            assert decode(split.content(index, wanted)).shape == (3, got, round(got * 60 / 48))
    assert [decode(split.content(0, px)).shape[1:] for px in SIZES] == [(24, 27), (26, 30)]


def test_prepared_images_are_other_data_than_the_tree(tree: Path) -> None:
    a, b, c = (tree.parent / name for name in "abc")
    manifests = [each.run(silent) for each in (made(tree, a), made(tree, b, workers=2), made(tree, c, [32]))]
    fingerprints = [manifest.fingerprint for manifest in manifests]
    assert manifests[0] == manifests[1], "workers change no byte"
    assert len({*fingerprints, opened(tree).fingerprint}) == 3
    assert opened(a).fingerprint == fingerprints[0]
    save(tree / "val" / "n01440764" / "n01440764_0.JPEG", seed=7)
    assert made(tree, tree.parent / "d").run(silent).fingerprint not in fingerprints


@pytest.mark.parametrize("images", [0, 5])
def test_an_interrupted_preparation_resumes(tree: Path, images: int) -> None:
    whole = made(tree, tree.parent / "whole").run(silent)
    out = tree / "prepared"
    with pytest.raises(KeyboardInterrupt):
        made(tree).run(interrupted_after(images))
    with pytest.raises(InputError, match=rf"data\.folder={out} is prepared in part: run the same prepare command"):
        opened(out)
    (out / ".train-00002.arrow.0123").write_bytes(b"of a process that was killed")
    before = {path.name: path.stat().st_ino for path in out.glob("*.arrow")}
    assert len(before) == images // 4
    assert made(tree).run(silent) == whole
    assert before.items() <= {path.name: path.stat().st_ino for path in out.glob("*.arrow")}.items()
    assert len(list(out.glob("*.arrow*"))) == 4


def test_damaged_images_are_listed_and_left_out(tree: Path) -> None:
    path = tree / "train" / "n01443537" / "n01443537_3.JPEG"
    path.write_bytes(path.read_bytes()[:-200])
    (tree / "val" / "n01440764" / "n01440764_1.JPEG").write_bytes(b"")
    Image.new("RGB", (66_000, 20)).save(tree / "train" / "n01443537" / "z.png")  # larger than a JPEG file can be
    (tree / "train" / "n01440764" / "one.gif").touch()
    manifest = made(tree).run(silent)
    damaged = "train/n01443537/n01443537_3.JPEG"
    assert list(manifest.left_out) == [damaged, "train/n01443537/z.png", "val/n01440764/n01440764_1.JPEG"]
    assert "truncated" in manifest.left_out[damaged]
    assert manifest.others == {".gif": 1}
    assert Manifest.read(tree / "prepared") == manifest
    data = opened(tree / "prepared")
    assert (data.train_count, data.test_count) == (9, 3)
    [(_, labels)] = train(data, batches=1, batch_size=9)
    assert sorted(labels.tolist()) == [0] * 5 + [1] * 4


def test_a_split_without_a_readable_image_is_refused(tree: Path) -> None:
    for path in (tree / "val").rglob("*.JPEG"):
        path.write_bytes(b"damaged")
    with pytest.raises(InputError, match=f"none of the images in {tree / 'val'} can be read"):
        made(tree).run(silent)


def test_damaged_and_missing_files_are_named_and_mended_by_a_second_run(tree: Path, prepared: Path) -> None:
    whole, path, missing = Manifest.read(prepared), prepared / "train-00001.arrow", prepared / "val-00000.arrow"
    content = bytearray(path.read_bytes())
    path.write_bytes(content[:-1])
    with pytest.raises(InputError, match=rf"^{path} has \d+ bytes, not \d+: run prepare again$"):
        opened(prepared)
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    missing.unlink()
    with pytest.raises(InputError, match=rf"^cannot read {missing}: .*; run prepare again$"):
        opened(prepared)
    assert made(tree).run(silent) == whole
    assert opened(prepared).fingerprint == whole.fingerprint


def test_a_manifest_of_another_version_or_damaged(prepared: Path) -> None:
    manifest = Manifest.read(prepared)
    replace(manifest, format=1).write(prepared)
    assert opened(prepared).test_count == 4
    replace(manifest, format=99).write(prepared)
    with pytest.raises(InputError, match="is of format 99, this is 2: prepare the images anew"):
        Manifest.read(prepared)
    for text in ("", "[]", "{}", '{"format": 1}'):
        (prepared / "prepared.json").write_text(text)
        with pytest.raises(InputError, match=r"prepared\.json is damaged: remove"):
            opened(prepared)


@pytest.mark.usefixtures("prepared")
def test_a_folder_keeps_the_images_it_has(tree: Path) -> None:
    with pytest.raises(InputError, match=r"prepared from other files or in other sizes \(theirs: 24, 32 pixels\)"):
        made(tree, sizes=[32]).run(silent)
    save(tree / "train" / "n01440764" / "another.JPEG", seed=9)
    with pytest.raises(InputError, match="prepared from other files"):
        made(tree).run(silent)


def test_two_processes_do_not_write_the_same_set(tree: Path) -> None:
    def second(done: int, total: int) -> None:  # noqa: ARG001
        made(tree).run(silent)

    with pytest.raises(InputError, match=f"{tree / 'prepared'} is being prepared by another process"):
        made(tree).run(second)


def test_the_disk_it_takes_is_known_before(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    estimated_bytes = made(tree).estimated_bytes()
    made(tree).run(silent)
    split = split_of(tree / "prepared", "train")
    train_bytes = sum(len(split.content(index, size)) for index in range(10) for size in SIZES)
    assert train_bytes < estimated_bytes < 2 * train_bytes  # beside 4 test images
    usage = shutil.disk_usage(tree)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    made(tree).check_disk(estimated_bytes)  # what is there already need not be found again
    with pytest.raises(InputError, match=r"the disk of .*/new is too small: 0\.0 GB must be free"):
        made(tree, tree / "new").check_disk(estimated_bytes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_px": 32}, r"data\.image_px is too large for .*: it needs .* 37 pixels, and these .* with 24, 32"),
        ({"classes": 1000}, r"/prepared has 2 classes; data\.classes is 1000"),
    ],
    ids=str,
)
def test_settings_that_contradict_the_set(prepared: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        opened(prepared, **change)


def test_processes_that_are_not_forked_map_the_files_themselves(prepared: Path) -> None:
    split = split_of(prepared, "train")
    text = pickle.dumps(split)
    assert len(text) < 2000  # bytes: no image is in it
    assert bytes(pickle.loads(text).content(6, 24)) == bytes(split.content(6, 24))
    assert split.where(6) == f"train/n01443537/n01443537_1.JPEG in {prepared / 'train-00001.arrow'}"


@pytest.mark.parametrize("workers", [0, 2])
def test_an_image_damaged_in_a_prepared_file_is_named(prepared: Path, workers: int) -> None:
    path = prepared / "val-00000.arrow"
    content, jpeg = path.read_bytes(), bytes(split_of(prepared, "val").content(1, 32))
    path.write_bytes(content.replace(jpeg, bytes(len(jpeg))))
    data = opened(prepared, workers=workers)
    message = rf"cannot read the image val/n01440764/n01440764_1\.JPEG in {path}: no image, or of no known kind$"
    with pytest.raises(InputError, match=message):
        whole_test_set(data)
