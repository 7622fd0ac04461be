"""What an epoch starts from and leaves behind: weights and momentum."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from rescaler.calibration import fit
from rescaler.chain import Recipe
from rescaler.kernels import Interpolation
from rescaler.rescaling import rescale, rescale_tensors


@dataclass
class State:
    """A network and the optimizer's momentum by parameter name (empty: none yet)."""

    network: nn.Module
    momentum: dict[str, Tensor] = field(default_factory=dict)
    digest: str = ""
    """Of the epoch that left this state; empty for initial weights."""

    def tensors(self) -> dict[str, Tensor]:
        """All of it by name, on the CPU, as the ledger keeps it."""
        named = {f"network.{name}": tensor for name, tensor in self.network.state_dict().items()}
        named |= {f"momentum.{name}": tensor for name, tensor in self.momentum.items()}
        return {name: tensor.detach().cpu().contiguous() for name, tensor in named.items()}

    def load(self, tensors: Mapping[str, Tensor], digest: str) -> None:
        """Take over what :meth:`tensors` gave."""
        parts: dict[str, dict[str, Tensor]] = {"network": {}, "momentum": {}}
        for name, tensor in tensors.items():
            part, _, key = name.partition(".")
            parts[part][key] = tensor
        self.network.load_state_dict(parts["network"])
        self.momentum = parts["momentum"]
        self.digest = digest

    def optimizer(self, recipe: Recipe) -> torch.optim.SGD:
        """SGD over the network, going on with this momentum."""
        parameters = dict(self.network.named_parameters())
        optimizer = torch.optim.SGD(
            parameters.values(),
            lr=recipe.learning_rate,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
            nesterov=recipe.nesterov,
            fused=True,
        )
        for name, momentum in self.momentum.items():
            # The fused step walks a parameter and its buffer as flat memory: their layouts must agree.
            buffer = torch.empty_like(parameters[name]).copy_(momentum)
            optimizer.state[parameters[name]]["momentum_buffer"] = buffer
        return optimizer

    def keep_momentum(self, optimizer: torch.optim.SGD) -> None:
        """Read the momentum back from :meth:`optimizer` after an epoch; SGD without momentum has none."""
        named = [(name, optimizer.state[value]) for name, value in self.network.named_parameters()]
        self.momentum = {
            name: state["momentum_buffer"] for name, state in named if state.get("momentum_buffer") is not None
        }


def rescaled(
    state: State,
    target: nn.Module,
    settings: Mapping[str, Any],
    small: Sequence[Tensor] = (),
    large: Sequence[Tensor] = (),
) -> State:
    """The state of ``target`` that follows from the pre-train network's (Eq. 5 and 6).

    The momentum is a running mean of gradients by weight, so it is resized like the weights that it moves; ``reset``
    starts it anew.

    Args:
        state: of the pre-train network.
        target: the network rescaled into, whose weights are overwritten: the target, or a larger pre-train network.
        settings: ``rescale`` of a :class:`rescaler.chain.Recipe`.
        small: training images in the pre-train network's size, by batch; for ``fit``.
        large: the same images in the target's size, for ``fit`` and the recalibration. Dropout in the latter draws from
            torch's global generator.
    """
    fits = settings["interpolation"] == "fit"
    mode = cast(Interpolation, "pinv" if fits else settings["interpolation"])
    rescale(state.network, target, mode=mode)
    if fits:
        fit(state.network, target, torch.cat(list(small)), torch.cat(list(large)))
    if settings.get("recalibrate"):
        update_bn(large, target)
    momentum: dict[str, Tensor] = {}
    if settings["momentum"] == "rescale":
        momentum = rescale_tensors(state.momentum, state.network, target, mode=mode)
    return State(target, momentum, state.digest)
