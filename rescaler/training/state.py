"""What an epoch starts from and leaves behind: weights, momentum, and what else training keeps."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim.swa_utils import update_bn

from rescaler.method.fit import fit
from rescaler.method.rescaling import rescale, rescale_tensors
from rescaler.training.chain import Recipe


@dataclass
class State:
    """A network, and what training needs beside its weights."""

    network: nn.Module
    momentum: dict[str, Tensor] = field(default_factory=dict)
    """The optimizer's, by parameter name; empty: none yet."""
    digest: str = ""
    """Key of the epoch that left this state; empty for initial weights."""
    average: nn.Module | None = None
    """Moving average of the network, where one is kept."""
    scaler: GradScaler | None = None
    """Scales the loss where the precision needs it."""
    _compiled: dict[str, nn.Module] = field(default_factory=dict, init=False, repr=False)

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.network.parameters()).device

    def tensors(self) -> dict[str, Tensor]:
        """All of it by name, on the CPU, as the ledger keeps it."""
        named = {f"network.{name}": tensor for name, tensor in self.network.state_dict().items()}
        named |= {f"momentum.{name}": tensor for name, tensor in self.momentum.items()}
        if self.average is not None:
            named |= {f"ema.{name}": tensor for name, tensor in self.average.state_dict().items()}
        if self.scaler is not None:
            named |= {f"scaler.{name}": torch.tensor(value) for name, value in self.scaler.state_dict().items()}
        return {name: tensor.detach().cpu().contiguous() for name, tensor in named.items()}

    def load(self, tensors: Mapping[str, Tensor], digest: str) -> None:
        """Take over what :meth:`tensors` gave."""
        parts: dict[str, dict[str, Tensor]] = {"network": {}, "momentum": {}, "ema": {}, "scaler": {}}
        for name, tensor in tensors.items():
            part, _, key = name.partition(".")
            parts[part][key] = tensor
        self.network.load_state_dict(parts["network"])
        self.momentum = parts["momentum"]
        if parts["ema"]:
            self.average = self.average or self._copy()
            self.average.load_state_dict(parts["ema"])
        if parts["scaler"]:
            self.scaler = self.scaler or GradScaler(self.device.type)
            self.scaler.load_state_dict({name: value.item() for name, value in parts["scaler"].items()})
        self.digest = digest

    def values(self) -> list[Tensor]:
        """The tensors that training changes, themselves."""
        average = {} if self.average is None else self.average.state_dict()
        return [*self.network.state_dict().values(), *self.momentum.values(), *average.values()]

    def prepare(self, recipe: Recipe) -> None:
        """Have all that ``recipe`` needs beside the weights, in their layout and on their device."""
        weights = dict(self.network.named_parameters()) if recipe.momentum else {}
        buffers = {name: torch.zeros_like(weight) for name, weight in weights.items()}
        for name, buffer in buffers.items():
            if name in self.momentum:
                buffer.copy_(self.momentum[name])
        self.momentum = buffers
        if recipe.ema_decay is not None:
            self.average = self.average or self._copy()
        if recipe.precision == "fp16":
            self.scaler = self.scaler or GradScaler(self.device.type)

    def _copy(self) -> nn.Module:
        return copy.deepcopy(self.network).requires_grad_(False)

    def is_compiled(self, recipe: Recipe) -> bool:
        """Whether no compilation is to come in training."""
        return recipe.compile is None or "network" in self._compiled

    def trained(self, recipe: Recipe) -> nn.Module:
        """The network to train with."""
        return self._fast("network", self.network, recipe)

    def tested(self, recipe: Recipe) -> nn.Module:
        """The network to test."""
        if self.average is None:
            return self.trained(recipe)
        return self._fast("average", self.average, recipe)

    def _fast(self, name: str, network: nn.Module, recipe: Recipe) -> nn.Module:
        if recipe.compile is None:
            return network
        if name not in self._compiled:
            # For its own shapes: the sizes of a stage are not those of another, but the same in all its steps.
            compiled = torch.compile(network, dynamic=False, mode=recipe.compile)
            self._compiled[name] = cast(nn.Module, compiled)
        return self._compiled[name]


def rescaled(
    state: State,
    target: nn.Module,
    settings: Mapping[str, Any],
    small: Sequence[Tensor] = (),
    large: Sequence[Tensor] = (),
) -> State:
    """The state of ``target`` that follows from the pre-train network's (Eq. 5 and 6).

    The momentum is a running mean of gradients by weight, so it is resized like the weights that it moves; ``reset``
    starts it anew. The moving average is a network like the one that it follows, and goes the same way.

    Args:
        state: of the pre-train network.
        target: the network rescaled into, whose weights are overwritten: the target, or a larger pre-train network.
        settings: ``rescale`` of a :class:`rescaler.training.chain.Recipe`.
        small: training images in the pre-train network's size, by batch; for ``fit``.
        large: the same images in the target's size, for ``fit`` and the recalibration. Dropout in the latter draws from
            torch's global generator.
    """
    mode = "pinv" if settings["interpolation"] == "fit" else settings["interpolation"]
    momentum: dict[str, Tensor] = {}
    if settings["momentum"] == "rescale":
        momentum = rescale_tensors(state.momentum, state.network, target, mode=mode)
    average = state.average and copy.deepcopy(target).requires_grad_(False)
    for network, grown in ((state.network, target), (state.average, average)):
        if network is not None and grown is not None:
            _rescale_network(network, grown, mode, settings, small, large)
    return State(target, momentum, state.digest, average, state.scaler)


def _rescale_network(
    network: nn.Module,
    target: nn.Module,
    mode: str,
    settings: Mapping[str, Any],
    small: Sequence[Tensor],
    large: Sequence[Tensor],
) -> None:
    rescale(network, target, mode=mode)
    if settings["interpolation"] == "fit":
        fit(network, target, torch.cat(list(small)), torch.cat(list(large)))
    if settings.get("recalibrate"):
        update_bn(large, target)
