"""What moves the weights: SGD with momentum, and the moving average of what it does."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.optim.sgd import sgd
from torch.optim.swa_utils import get_ema_multi_avg_fn


class SGD:
    """Stochastic gradient descent with momentum, by torch's own kernels.

    ``torch.optim.SGD`` computes the same, but whoever makes one waits seconds for torch.compile to be imported; the
    function below it is as public, and the momentum is plainly ours.

    Args:
        parameters: those to train; one without a gradient is left alone.
        momentum: its buffer for each, in its shape and layout: the fused kernel walks both as flat memory. Empty for
            SGD without momentum.
        coefficient: of the momentum.
        nesterov: whether the momentum looks ahead.
        weight_decay: added to the gradients, as a multiple of the weights.
        fused: one kernel for all of it, else one for each operation.
    """

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        momentum: Sequence[Tensor] = (),
        *,
        coefficient: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        fused: bool = True,
    ) -> None:
        self.learning_rate = 0.0
        self.param_groups = [{"params": list(parameters)}]
        # Where this is true, GradScaler hands its scale over as attributes; else it waits for the device in every step.
        self._step_supports_amp_scaling = fused
        buffers: Sequence[Tensor | None] = momentum or [None] * len(parameters)
        self._pairs = list(zip(parameters, buffers, strict=True))
        self._coefficient, self._nesterov, self._weight_decay = coefficient, nesterov, weight_decay
        self._fused = fused

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for weight, _ in self._pairs:
            weight.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Move the parameters at ``learning_rate``, and the momentum; neither where GradScaler found an infinity."""
        pairs = [(weight, weight.grad, momentum) for weight, momentum in self._pairs if weight.grad is not None]
        sgd(
            [weight for weight, _, _ in pairs],
            [gradient for _, gradient, _ in pairs],
            [momentum for _, _, momentum in pairs],
            foreach=not self._fused,
            fused=self._fused,
            grad_scale=getattr(self, "grad_scale", None),
            found_inf=getattr(self, "found_inf", None),
            weight_decay=self._weight_decay,
            momentum=self._coefficient,
            lr=self.learning_rate,
            dampening=0.0,
            nesterov=self._nesterov,
            maximize=False,
        )


class Average:
    """The exponential moving average of a network's weights, and of its BatchNorm statistics, in another network.

    Args:
        average: where to; starts as a copy of ``network``.
        network: what is averaged.
        decay: what is kept of the average in each step, but in the first steps less: the n-th of the training keeps
            (1 + n) / (10 + n) at most, so that the initial weights do not linger (TensorFlow's rule).
    """

    def __init__(self, average: nn.Module, network: nn.Module, decay: float) -> None:
        both = zip(average.state_dict().values(), network.state_dict().values(), strict=True)
        pairs = list(
            {value.data_ptr(): (average, value) for average, value in both}.values()
        )  # tied weights count once
        self._averages = [average for average, _ in pairs if average.is_floating_point()]
        self._values = [value for average, value in pairs if average.is_floating_point()]
        self._counts = [pair for pair in pairs if not pair[0].is_floating_point()]
        self._decay = decay

    def update(self, step: int) -> None:
        """Take in the weights after a step, which is counted from the beginning of the training."""
        decay = min(self._decay, (1 + step) / (10 + step))
        get_ema_multi_avg_fn(decay)(self._averages, self._values, step)  # type: ignore[no-untyped-call]
        for average, value in self._counts:
            average.copy_(value)
