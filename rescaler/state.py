"""What an epoch starts from and leaves behind: weights, optimizer, moving average, loss scaler."""

import copy
from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim.optimizer import Optimizer
from torch.optim.swa_utils import update_bn

from rescaler import distributed, process
from rescaler.chain import Recipe
from rescaler.config import OptimSettings, RescaleSettings
from rescaler.method.fit import fit
from rescaler.method.rescaling import rescale
from rescaler.models import Teacher
from rescaler.optim import load_state_tensors, make_optimizer, rescale_state, state_tensors


class State:
    """A network, and what training keeps beside its weights.

    Args:
        network: on the device that trains it.
        digest: of the epoch that left this state; empty for initial weights.
        optimizer_tensors: the optimizer's state, as :func:`rescaler.optim.state_tensors` gives it.
        average: moving average of the network, where one is kept.
        scaler: of the loss, where the precision needs it.
    """

    def __init__(
        self,
        network: nn.Module,
        digest: str = "",
        optimizer_tensors: Mapping[str, Tensor] | None = None,
        average: nn.Module | None = None,
        scaler: GradScaler | None = None,
    ) -> None:
        self.network, self.digest, self.average, self.scaler = network, digest, average, scaler
        self.teacher: Teacher | None = None
        """The network before the rescale, while this one learns from it. Not kept: the state before has it."""
        self.optimizer: Optimizer | None = None
        self._optimizer_tensors = dict(optimizer_tensors or {})  # until there is an optimizer
        self._made_for: OptimSettings | None = None
        self._compiled: dict[str, nn.Module] = {}
        self._is_shared = False

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.network.parameters()).device

    def optimizer_tensors(self) -> dict[str, Tensor]:
        """Return the optimizer's state by ``PARAMETER.KEY``."""
        return self._optimizer_tensors if self.optimizer is None else state_tensors(self.optimizer, self.network)

    def tensors(self) -> dict[str, Tensor]:
        """Return all of it by name, on the CPU, as the ledger keeps it."""
        named = {f"network.{name}": tensor for name, tensor in self.network.state_dict().items()}
        named |= {f"optim.{name}": tensor for name, tensor in self.optimizer_tensors().items()}
        if self.average is not None:
            named |= {f"ema.{name}": tensor for name, tensor in self.average.state_dict().items()}
        if self.scaler is not None:
            named |= {f"scaler.{name}": torch.tensor(value) for name, value in self.scaler.state_dict().items()}
        return {name: tensor.detach().cpu().contiguous() for name, tensor in named.items()}

    def load(self, tensors: Mapping[str, Tensor], digest: str) -> None:
        """Take over what :meth:`tensors` gave."""
        parts: dict[str, dict[str, Tensor]] = {"network": {}, "optim": {}, "ema": {}, "scaler": {}}
        for name, tensor in tensors.items():
            part, _, key = name.partition(".")
            parts[part][key] = tensor
        self.network.load_state_dict(parts["network"])
        self._optimizer_tensors, self.optimizer = parts["optim"], None
        if parts["ema"]:
            self.average = self.average or self._copy()
            self.average.load_state_dict(parts["ema"])
        if parts["scaler"]:
            self.scaler = self.scaler or GradScaler(self.device.type)
            self.scaler.load_state_dict({name: value.item() for name, value in parts["scaler"].items()})
        self.digest, self._is_shared = digest, False

    def prepare(self, recipe: Recipe) -> None:
        """Allocate the optimizer, moving average and loss scaler that the recipe needs."""
        if self.optimizer is None or self._made_for != recipe.optim:
            tensors = self.optimizer_tensors()
            self.optimizer, self._made_for = make_optimizer(self.network, recipe.optim, recipe.step), recipe.optim
            load_state_tensors(self.optimizer, self.network, tensors)
            self._optimizer_tensors = {}
        if recipe.optim.ema_decay is not None:
            self.average = self.average or self._copy()
        if recipe.step.precision == "fp16":
            self.scaler = self.scaler or GradScaler(self.device.type)

    def share(self, recipe: Recipe) -> None:
        """Prepare, and give all processes the first one's state."""
        if process.world_size() > 1 and not distributed.from_first(lambda: self._is_shared):
            self._optimizer_tensors = distributed.from_first(
                lambda: {name: tensor.cpu() for name, tensor in self.optimizer_tensors().items()}
            )
            self.optimizer = None
            self.prepare(recipe)
            average = [] if self.average is None else list(self.average.state_dict().values())
            distributed.send_from_first([*self.network.state_dict().values(), *average])
            if self.scaler is not None:
                self.scaler.load_state_dict(distributed.from_first(self.scaler.state_dict))
        self.prepare(recipe)
        self._is_shared = True

    def recalibrate(self, images: Sequence[Tensor]) -> None:
        """Measure the BatchNorm statistics anew, by batch of images; with dropout, torch's global generator draws."""
        for network in filter(None, (self.network, self.average)):
            update_bn(images, network)

    def _copy(self) -> nn.Module:
        return copy.deepcopy(self.network).requires_grad_(False)

    def is_compiled(self, recipe: Recipe) -> bool:
        """Return whether no compilation is to come in training."""
        return not recipe.step.compile or "network" in self._compiled

    def trained(self, recipe: Recipe) -> nn.Module:
        """Return the network to train with."""
        return self._fast("network", self.network, recipe)

    def tested(self, recipe: Recipe) -> nn.Module:
        """Return the network to test: the moving average where one is kept."""
        return self.trained(recipe) if self.average is None else self._fast("average", self.average, recipe)

    def _fast(self, name: str, network: nn.Module, recipe: Recipe) -> nn.Module:
        if not recipe.step.compile:
            return network
        if name not in self._compiled:
            # For its own shapes: the sizes of a stage are not those of another, but the same in all its steps.
            mode = "reduce-overhead" if recipe.step.cuda_graphs else "default"
            self._compiled[name] = cast(nn.Module, torch.compile(network, dynamic=False, mode=mode))
        return self._compiled[name]


def rescaled(
    state: State,
    target: nn.Module,
    settings: RescaleSettings,
    small: Sequence[Tensor] = (),
    large: Sequence[Tensor] = (),
) -> State:
    """Carry a state from the pre-train network to ``target`` (Eq. 5 and 6).

    Args:
        state: of the pre-train network.
        target: the network rescaled into, whose weights are overwritten: the target, or a larger pre-train network.
        settings: how.
        small: training images in the pre-train network's size, by batch; for ``fit``.
        large: the same images in the target's size, for ``fit`` and the recalibration. Dropout in the latter draws from
            torch's global generator.
    """
    mode = "pinv" if settings.interpolation == "fit" else settings.interpolation
    tensors: dict[str, Tensor] = {}
    if settings.optimizer_state == "resize":
        tensors = rescale_state(state.optimizer_tensors(), state.network, target, mode)
    average = state.average and copy.deepcopy(target).requires_grad_(False)
    for network, grown in ((state.network, target), (state.average, average)):
        if network is None or grown is None:
            continue
        rescale(network, grown, mode=mode)
        if settings.interpolation == "fit":
            images = torch.cat(list(small)), torch.cat(list(large))
            fit(network, grown, *images, ridge=settings.ridge, align=settings.align)
    grown_state = State(target, state.digest, tensors, average, state.scaler)
    if settings.recalibrate:
        grown_state.recalibrate(large)
    return grown_state
