"""The callback of Lightning's Trainer; skipped without Lightning: pip install 'rescaler[lightning]'."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from rescaler import rescale, rescale_optimizer, shrink
from rescaler.errors import InputError

pl = pytest.importorskip("lightning.pytorch", reason="pip install 'rescaler[lightning]'")
from rescaler.lightning import KernelRescaling  # noqa: E402 - needs Lightning

pytestmark = [  # Lightning's own advice, and what it calls of older torch
    pytest.mark.filterwarnings("ignore::UserWarning:lightning"),
    pytest.mark.filterwarnings("ignore::FutureWarning:lightning"),
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork"),  # its strategy ddp_fork
]
IMAGES_PX, RESIZE_EPOCH, EPOCHS, BATCH = 12, 2, 4, 8


def network() -> nn.Sequential:
    torch.manual_seed(0)
    conv = nn.Conv2d(2, 4, 3, padding=1)
    return nn.Sequential(conv, nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))


def images() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(4 * BATCH, 2, IMAGES_PX, IMAGES_PX, generator=generator), torch.arange(4 * BATCH) % 3


def optimizer_of(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=0.01)


class Module(pl.LightningModule):  # type: ignore[name-defined,misc]
    def __init__(self) -> None:
        super().__init__()
        self.net = network()
        self.losses: list[float] = []
        self.sizes: list[Any] = []

    def training_step(self, batch: list[Tensor], _: int) -> Tensor:
        loss = F.cross_entropy(self.net(batch[0]), batch[1])
        self.losses.append(loss.item())
        self.sizes.append(callback_of(self.trainer).image_px)
        return loss

    def validation_step(self, batch: list[Tensor], _: int) -> None:
        self.log("loss", F.cross_entropy(self.net(batch[0]), batch[1]))

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(TensorDataset(*images()), batch_size=BATCH)

    val_dataloader = train_dataloader

    def configure_optimizers(self) -> Any:
        optimizer = optimizer_of(self.parameters())
        return [optimizer], [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)]


def callback_of(trainer: Any) -> KernelRescaling:
    (found,) = (each for each in trainer.callbacks if isinstance(each, KernelRescaling))
    return found


def trainer(folder: Path, epochs: int = EPOCHS, callback: KernelRescaling | None = None, **options: Any) -> Any:
    callbacks = [
        callback or KernelRescaling(RESIZE_EPOCH, IMAGES_PX, attribute="net"),
        pl.callbacks.ModelCheckpoint(folder, "{epoch}", save_top_k=-1),
    ]
    quiet = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary"), False)
    options = {"devices": 1, **quiet, **options}
    return pl.Trainer(accelerator="cpu", max_epochs=epochs, callbacks=callbacks, default_root_dir=folder, **options)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Module, Path]:
    module, folder = Module(), tmp_path_factory.mktemp("lightning")
    trainer(folder).fit(module)
    return module, folder


def plain_loop() -> tuple[list[float], nn.Module]:
    target = network()
    shrunk = shrink(target, IMAGES_PX)
    now, losses = shrunk.network, []
    optimizer = optimizer_of(now.parameters())
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    batches = list(zip(*(torch.split(tensor, BATCH) for tensor in images()), strict=True))
    for epoch in range(EPOCHS):
        if epoch == RESIZE_EPOCH:
            now = rescale(shrunk.network, target)
            rescale_optimizer(optimizer, shrunk.network, target)
        for some, labels in batches:
            if epoch < RESIZE_EPOCH:
                some = F.interpolate(some, size=(shrunk.image_px,) * 2, mode="bilinear", antialias=True)
            loss = F.cross_entropy(now(some), labels)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            losses.append(loss.item())
        scheduler.step()
    return losses, now


def equal(one: nn.Module, other: nn.Module) -> bool:
    return all(map(torch.equal, one.state_dict().values(), other.state_dict().values()))


def test_the_numbers_are_those_of_a_plain_loop_bit_for_bit(trained: tuple[Module, Path]) -> None:
    losses, target = plain_loop()
    assert trained[0].losses == losses
    assert equal(trained[0].net, target)
    assert trained[0].sizes == [8] * 8 + [12] * 8  # 3x3 -> 2x2: two thirds of 12 px


@pytest.mark.parametrize("epoch", [0, 2])
def test_training_resumes_from_either_network(epoch: int, trained: tuple[Module, Path], tmp_path: Path) -> None:
    resumed = Module()
    trainer(tmp_path).fit(resumed, ckpt_path=trained[1] / f"epoch={epoch}.ckpt")
    assert resumed.losses == trained[0].losses[4 * (epoch + 1) :]
    assert equal(resumed.net, trained[0].net)


def test_training_resumes_in_the_middle_of_an_epoch_where_both_networks_have_the_same_shapes(tmp_path: Path) -> None:
    def small_images() -> KernelRescaling:
        return KernelRescaling(1, IMAGES_PX, attribute="net", input_only=True)

    class Saving(Module):
        def on_train_batch_end(self, *_: Any) -> None:
            if self.global_step == 6:
                self.trainer.save_checkpoint(tmp_path / "middle.ckpt")

    rest = Module()
    trainer(tmp_path / "whole", 2, small_images()).fit(Saving())
    again = trainer(tmp_path / "rest", 2, small_images())
    again.fit(rest, ckpt_path=tmp_path / "middle.ckpt")
    assert rest.sizes == [12, 12]
    again.fit(rest, ckpt_path=next((tmp_path / "whole").glob("epoch=0.ckpt")))
    assert rest.sizes == [12] * 6


def test_a_checkpoint_is_validated_with_the_network_that_it_holds(trained: tuple[Module, Path], tmp_path: Path) -> None:
    for epoch, kernel in ((1, (2, 2)), (3, (3, 3))):
        module = Module()
        trainer(tmp_path).validate(module, ckpt_path=trained[1] / f"epoch={epoch}.ckpt", verbose=False)
        assert module.net[0].kernel_size == kernel
    assert equal(Module.load_from_checkpoint(trained[1] / "epoch=3.ckpt").net, trained[0].net)  # without the callback


def test_two_processes_train_the_same_network(tmp_path: Path) -> None:
    class Observed(Module):
        def on_train_end(self) -> None:
            torch.save(self.net.state_dict(), tmp_path / f"{self.global_rank}.pt")

    trainer(tmp_path, 3, devices=2, strategy="ddp_fork", limit_val_batches=0).fit(Observed())
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    assert first["0.weight"].shape == (4, 2, 3, 3)
    learnt = {name for name, _ in network().named_parameters()}
    assert all(torch.equal(first[name], second[name]) for name in learnt)


def test_a_wrong_argument_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="resize_epoch must be an integer from 0 on; got -1"):
        KernelRescaling(-1, IMAGES_PX)
    with pytest.raises(InputError, match="Module has no network in its attribute 'model'"):
        trainer(tmp_path, callback=KernelRescaling(1, IMAGES_PX)).fit(Module())
    averaging = trainer(tmp_path)
    averaging.callbacks.append(pl.callbacks.StochasticWeightAveraging(0.1))
    with pytest.raises(InputError, match="does not go with StochasticWeightAveraging, which copies the network"):
        averaging.fit(Module())


def test_half_precision_trains(tmp_path: Path) -> None:
    class Half(Module):
        def training_step(self, batch: list[Tensor], _: int) -> Tensor:
            return super().training_step([batch[0].bfloat16(), batch[1]], _)

    module = Half()
    trainer(tmp_path, 3, precision="bf16-true", limit_val_batches=0).fit(module)
    weight = module.net.get_parameter("0.weight")
    assert (weight.dtype, weight.shape) == (torch.bfloat16, (4, 2, 3, 3))


def test_without_lightning_the_extra_is_named() -> None:
    code = "import sys; sys.modules['lightning'] = None; import rescaler.lightning"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    last = done.stderr.splitlines()[-1]
    assert last == "ModuleNotFoundError: lightning is not installed: pip install 'rescaler[lightning]'"


def test_images_that_are_not_square_are_resized_along_both_sides(tmp_path: Path) -> None:
    pixels, labels = images()
    loader = DataLoader(TensorDataset(pixels[..., :9], labels), batch_size=BATCH)
    for ckpt_path in (None, tmp_path / "epoch=0.ckpt"):
        module = Module()
        trainer(tmp_path, 3, KernelRescaling(2, (12, 9), attribute="net")).fit(module, loader, ckpt_path=ckpt_path)
        assert module.sizes[-8:] == [(8, 6)] * 4 + [(12, 9)] * 4
