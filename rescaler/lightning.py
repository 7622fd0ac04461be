"""Kernel rescaling as a callback of Lightning's Trainer; the only module that imports Lightning."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from rescaler.errors import InputError, missing_extra
from rescaler.method import ImageSize, height_width, image_size
from rescaler.method.rescaling import rescale
from rescaler.method.shrinking import shrink
from rescaler.optim import rescale_optimizer

try:
    from lightning.pytorch import LightningModule, Trainer
    from lightning.pytorch.callbacks import Callback
    from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(missing_extra(error) or str(error), name=error.name) from None


class KernelRescaling(Callback):
    """Train a module's network with smaller kernels on smaller images first, then rescale it and continue.

    Before training, :func:`rescaler.shrink` takes the network's place with its pre-train network, which resizes the
    images that it gets (bilinear, antialiased), in training, validation and test alike. When ``resize_epoch`` epochs
    are complete, the network returns with the rescaled weights, the optimizers move to its parameters with their state
    rescaled, and learning-rate schedulers go on.

    A checkpoint of either network resumes, as its shapes tell which one it holds. One of the target network needs no
    rescaler to be loaded. A data set may make images smaller by itself, by the callback's ``image_px``.

    Args:
        resize_epoch: completed epochs of the pre-train network before the target takes over; 0: none.
        image_px: side of the target's images, or ``(height, width)``.
        attribute: of the LightningModule, which holds the network after ``__init__``.
        mode: interpolation, as for :func:`rescaler.rescale_kernel`.
        options: further arguments of :func:`rescaler.shrink`, such as ``table``.

    Raises:
        InputError: when training starts: the module has no such network, it cannot be shrunk, the strategy is another
            than that of a single device or DDP, or another callback averages weights.
    """

    def __init__(
        self,
        resize_epoch: int,
        image_px: ImageSize,
        *,
        attribute: str = "model",
        mode: str = "bilinear",
        **options: Any,
    ) -> None:
        if isinstance(resize_epoch, bool) or not isinstance(resize_epoch, int) or resize_epoch < 0:
            raise InputError(f"resize_epoch must be an integer from 0 on; got {resize_epoch!r}")
        self.image_px: int | Any = image_size(image_px)
        """Size of the images of the network that is trained now."""
        self._resize_epoch, self._target_px, self._options = resize_epoch, self.image_px, options
        self._attribute, self._mode = attribute, mode
        self._networks: tuple[nn.Module, nn.Module] | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Shrink the network before training."""
        network = getattr(pl_module, self._attribute, None)
        if not isinstance(network, nn.Module):
            raise InputError(f"{type(pl_module).__name__} has no network in its attribute {self._attribute!r}")
        if not isinstance(trainer.strategy, DDPStrategy | SingleDeviceStrategy):
            raise InputError(f"KernelRescaling needs a single device or DDP; got {type(trainer.strategy).__name__}")
        for callback in trainer.callbacks:  # type: ignore[attr-defined]  # averages keep their first shapes
            if any(kind.__name__.endswith("WeightAveraging") for kind in type(callback).__mro__):
                raise InputError(
                    f"KernelRescaling does not go with {type(callback).__name__}, which copies the network"
                )
        if self._networks is not None and any(network is each for each in self._networks):
            return  # of an earlier call
        shrunk = shrink(network, self._target_px, **self._options)
        self._pretrain_px = shrunk.image_px
        shrunk.network.register_forward_pre_hook(self._resize)
        self._networks = shrunk.network, network
        pl_module.register_load_state_dict_pre_hook(self._choose)  # type: ignore[no-untyped-call]
        if stage == "fit" and self._resize_epoch > 0:
            self._put(pl_module, shrunk.network)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Rescale the network where the pre-train epochs are complete."""
        assert self._networks is not None
        pretrain, target = self._networks
        if getattr(pl_module, self._attribute) is not pretrain or trainer.current_epoch < self._resize_epoch:
            return
        if any(isinstance(module, nn.SyncBatchNorm) for module in pretrain.modules()):
            target = nn.SyncBatchNorm.convert_sync_batchnorm(target)  # type: ignore[no-untyped-call]
        target = trainer.strategy.precision_plugin.convert_module(target).to(pl_module.device).train(pretrain.training)
        rescale(pretrain, target, mode=self._mode)
        own = set(pretrain.parameters())
        for optimizer in trainer.optimizers:
            if any(each in own for group in optimizer.param_groups for each in group["params"]):
                rescale_optimizer(optimizer, pretrain, target, mode=self._mode)
        self._networks = pretrain, target
        self._put(pl_module, target)
        if isinstance(trainer.strategy, DDPStrategy):  # its hooks are on the parameters that it was made with
            trainer.strategy.model = pl_module
            trainer.strategy.configure_ddp()

    def state_dict(self) -> dict[str, Any]:
        """Return which network is trained, by the size of its images."""
        return {"image_px": self.image_px}

    def on_load_checkpoint(self, _: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Put the network in place that was trained, where both have the same shapes (``input_only``)."""
        own = checkpoint["callbacks"].get(self.state_key)  # none where it was trained without
        if self._networks is not None and own is not None and own["image_px"] != self.image_px:
            loaded = getattr(pl_module, self._attribute)
            trained = self._networks[loaded is self._networks[0]]
            trained.load_state_dict(loaded.state_dict())
            self._put(pl_module, trained)

    def _put(self, pl_module: LightningModule, network: nn.Module) -> None:
        assert self._networks is not None
        setattr(pl_module, self._attribute, network)
        self.image_px = self._pretrain_px if network is self._networks[0] else self._target_px

    def _resize(self, _: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        """Resize the images that the pre-train network gets."""
        if not inputs:
            raise InputError(f"{self._attribute} must be called with the images as its first argument, without a name")
        images, *others = inputs
        size = height_width(self._pretrain_px)
        if images.shape[-2:] != size:
            # In float32: torch has no antialiasing of bfloat16 on the CPU.
            images = F.interpolate(images.float(), size=size, mode="bilinear", antialias=True).to(images.dtype)
        return images, *others

    def _choose(self, pl_module: LightningModule, weights: dict[str, Tensor], prefix: str, *_: Any) -> None:
        """Put the network in place that a checkpoint has the weights of; the one in place where both fit."""
        networks = sorted(self._networks or (), key=lambda network: network is not getattr(pl_module, self._attribute))
        for network in networks:
            shapes = {
                f"{prefix}{self._attribute}.{name}": tensor.shape for name, tensor in network.state_dict().items()
            }
            if all(name in weights and weights[name].shape == shape for name, shape in shapes.items()):
                self._put(pl_module, network)
                return
