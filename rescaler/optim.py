"""Optimizers: any of torch's or a third party's, parameter groups, moving average, and their state at a rescale."""

import contextlib
import fnmatch
import inspect
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer
from torch.optim.swa_utils import get_ema_multi_avg_fn

from rescaler.config import OptimSettings, StepSettings
from rescaler.errors import InputError, listed, one_line
from rescaler.instantiate import partial
from rescaler.method.rescaling import rescale_tensors

LINEAR = {"momentum_buffer", "exp_avg", "grad_avg", "mu", "prev"}
"""State that is a mean of gradients: it is resized like the weights."""
QUADRATIC = {"exp_avg_sq", "max_exp_avg_sq", "square_avg", "acc_delta", "sum"}
"""State that is a mean of squared gradients: its amplitude changes by the square."""


def make_optimizer(network: nn.Module, settings: OptimSettings, step: StepSettings) -> Optimizer:
    """Build the optimizer of a network's parameters; learning rate and weight decay are set at each step.

    Raises:
        InputError: ``optim._target_`` is no optimizer, or does not take its arguments.
    """
    path, groups = settings.arguments["_target_"], _groups(network, settings)
    factory = partial(settings.arguments, "optim")
    try:
        known = inspect.signature(factory.func).parameters
        options: dict[str, Any] = {"lr": 1.0} if "lr" in known else {}
        options |= {step.optimizer: True} if step.optimizer in known else {}
        with _without_compiler():
            optimizer = factory(groups, **options)
    except Exception as error:  # whatever a custom optimizer raises
        raise InputError(f"optim._target_={path}: {one_line(error.__cause__ or error)}") from error
    if not isinstance(optimizer, Optimizer):
        raise InputError(
            f"optim._target_={path} must make a torch.optim.Optimizer; it made a {type(optimizer).__name__}"
        )
    return optimizer


def _groups(network: nn.Module, settings: OptimSettings) -> list[dict[str, Any]]:
    """Group the parameters by what the settings say of their names; one group where they say nothing."""
    groups: dict[str, dict[str, Any]] = {}
    for name, parameter in network.named_parameters():
        exempt = settings.no_decay is not None and parameter.dim() <= 1
        options: dict[str, Any] = {"lr_factor": settings.lr_factor, "decay_factor": 0.0 if exempt else 1.0}
        for pattern, values in settings.groups.items():
            if fnmatch.fnmatchcase(name, pattern):
                factors = {key: options[key] * values.get(key, 1.0) for key in ("lr_factor", "decay_factor")}
                options |= {**values, **factors}
        groups.setdefault(repr(sorted(options.items())), {"params": [], **options})["params"].append(parameter)
    for pattern in settings.groups:
        if not any(fnmatch.fnmatchcase(name, pattern) for name, _ in network.named_parameters()):
            raise InputError(f"optim.groups: {pattern!r} fits no parameter of the network")
    return list(groups.values())


@contextlib.contextmanager
def _without_compiler() -> Iterator[None]:
    """Build an optimizer without importing torch.compile: it takes seconds, and torch needs it only to hide from it."""
    function = inspect.unwrap(Optimizer.add_param_group)
    if "torch._dynamo" in sys.modules or hasattr(function, "__dynamo_disable"):
        yield
        return
    setattr(function, "__dynamo_disable", function)  # noqa: B010
    try:
        yield
    finally:
        delattr(function, "__dynamo_disable")


class Update:
    """Moves the weights: gradient clipping, optimizer, loss scaler, moving average.

    Args:
        optimizer: from :func:`make_optimizer`.
        settings: its.
        scaler: of the loss, for fp16.
        average: the moving average, if one is kept.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        settings: OptimSettings,
        scaler: torch.amp.GradScaler | None = None,
        average: "Average | None" = None,
    ) -> None:
        self._optimizer, self._settings, self._scaler, self._average = optimizer, settings, scaler, average
        self._parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        # The plain function: torch's wrappers import torch.compile.
        self._step = inspect.unwrap(type(optimizer).step)

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for parameter in self._parameters:
            parameter.grad = None

    def __call__(self, learning_rate: float, weight_decay: float, number: int) -> None:
        """Apply the gradients.

        Args:
            learning_rate: of this step, before the factors of the groups.
            weight_decay: of the parameters that decay.
            number: of this step, counted from the beginning of the training.
        """
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate * group["lr_factor"]
            if "weight_decay" in self._optimizer.defaults:
                group["weight_decay"] = weight_decay * group["decay_factor"]
        if self._settings.clip_norm is not None:
            if self._scaler is not None:
                self._scaler.unscale_(self._optimizer)
            nn.utils.clip_grad_norm_(self._parameters, self._settings.clip_norm)
        if self._scaler is not None:
            self._scaler.step(self._optimizer)
            self._scaler.update()
        else:
            with torch.no_grad():
                self._step(self._optimizer)
        if self._average is not None:
            self._average.update(number)


class Average:
    """Exponential moving average of a network's weights and BatchNorm statistics, kept in another network.

    Args:
        average: starts as a copy of ``network``.
        network: what is averaged.
        decay: share of the average that a step keeps; the n-th step of the training keeps (1 + n) / (10 + n) at most,
            so that the initial weights do not linger (TensorFlow's rule).
    """

    def __init__(self, average: nn.Module, network: nn.Module, decay: float) -> None:
        both = zip(average.state_dict().values(), network.state_dict().values(), strict=True)
        pairs = list({value.data_ptr(): (average, value) for average, value in both}.values())  # tied ones count once
        self._averages = [average for average, _ in pairs if average.is_floating_point()]
        self._values = [value for average, value in pairs if average.is_floating_point()]
        self._counts = [pair for pair in pairs if not pair[0].is_floating_point()]
        self._decay = decay

    def update(self, step: int) -> None:
        """Take in the weights after a step, counted from the beginning of the training."""
        decay = min(self._decay, (1 + step) / (10 + step))
        get_ema_multi_avg_fn(decay)(self._averages, self._values, step)  # type: ignore[no-untyped-call]
        for average, value in self._counts:
            average.copy_(value)


def state_tensors(optimizer: Optimizer, network: nn.Module) -> dict[str, Tensor]:
    """Return the optimizer's state as tensors: ``PARAMETER.KEY``, and ``#GROUP.KEY`` of groups.

    Numbers become float64 or int64 scalars, named ``...KEY#`` so that they come back as numbers.
    """
    names: dict[Tensor, str] = {parameter: name for name, parameter in network.named_parameters()}
    found: dict[str, Tensor] = {}
    owners = [(names[parameter], values) for parameter, values in optimizer.state.items()]
    # What an optimizer notes in its groups beside its arguments, such as Prodigy's estimate of the distance.
    for index, group in enumerate(optimizer.param_groups):
        ours = {"params", "lr_factor", "decay_factor", *optimizer.defaults}
        owners.append((f"#{index}", {key: value for key, value in group.items() if key not in ours}))
    for owner, values in owners:
        for key, value in values.items():
            if isinstance(value, Tensor):
                found[f"{owner}.{key}"] = value
            elif isinstance(value, int | float):
                found[f"{owner}.{key}#"] = torch.tensor(
                    value, dtype=torch.float64 if isinstance(value, float) else None
                )
            elif value is not None:
                raise InputError(
                    f"the optimizer keeps {key} as a {type(value).__name__}, which no checkpoint here holds"
                )
    return found


def load_state_tensors(optimizer: Optimizer, network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Give an optimizer the state that :func:`state_tensors` returned, on the devices of its parameters."""
    parameters = dict(network.named_parameters())
    for full_name, tensor in tensors.items():
        owner, _, key = full_name.rpartition(".")
        values = optimizer.param_groups[int(owner[1:])] if owner[0] == "#" else optimizer.state[parameters[owner]]
        if key.endswith("#"):
            values[key[:-1]] = tensor.item()
        elif owner in parameters and tensor.shape == parameters[owner].shape:
            # In the weight's layout: fused kernels walk both as flat memory.
            values[key] = torch.empty_like(parameters[owner], dtype=tensor.dtype).copy_(tensor)
        elif owner in parameters and not (tensor.dim() == 0 and key == "step" and not _step_on_device(optimizer)):
            values[key] = tensor.to(parameters[owner].device, copy=True)
        else:
            values[key] = tensor.clone()


def _step_on_device(optimizer: Optimizer) -> bool:
    """Return whether steps are counted on the GPU, as fused and capturable optimizers do."""
    return any(group.get("fused") or group.get("capturable") for group in optimizer.param_groups)


def rescale_state(
    tensors: Mapping[str, Tensor], pretrain: nn.Module, target: nn.Module, mode: str
) -> dict[str, Tensor]:
    """Resize an optimizer's state from the pre-train network to the target, by shape.

    Means of gradients are resized like the weights that they move, means of squares with the square of the amplitude.
    State that has not the shape of its weight is kept. A parameter that changes its size and has other state of its
    shape starts anew.

    Args:
        tensors: from :func:`state_tensors`.
        pretrain: the network before.
        target: the network after, of the same names.
        mode: interpolation of the kernels.
    """
    before, after = dict(pretrain.named_parameters()), dict(target.named_parameters())
    kept: dict[str, Tensor] = {}
    grown: dict[str, dict[str, Tensor]] = {}
    for full_name, tensor in tensors.items():
        name, _, key = full_name.rpartition(".")
        if name in before and tensor.shape == before[name].shape != after[name].shape:
            grown.setdefault(key, {})[name] = tensor
        else:
            kept[full_name] = tensor
    fresh = {name for key, own in grown.items() if key not in LINEAR | QUADRATIC for name in own}
    for key in grown.keys() & (LINEAR | QUADRATIC):
        # Bilinear: a mean of squares has no negative values.
        resized = rescale_tensors(grown[key], pretrain, target, mode="bilinear" if key in QUADRATIC else mode)
        for name, tensor in resized.items():
            gain = before[name].numel() / after[name].numel() if key in QUADRATIC else 1.0
            kept[f"{name}.{key}"] = gain * tensor if gain != 1.0 else tensor
    return {name: tensor for name, tensor in kept.items() if name.rpartition(".")[0] not in fresh}


def rescale_optimizer(optimizer: Optimizer, pretrain: nn.Module, target: nn.Module, *, mode: str = "bilinear") -> None:
    """Move an optimizer from the pre-train network's parameters to the target network's, with its state rescaled.

    Its parameter groups and their learning rates stay, so schedulers of them do, too. State is resized as by
    :func:`rescale_state`.

    Args:
        optimizer: of the pre-train network's parameters, and maybe of others, which it keeps; changed in place.
        pretrain: network made by :func:`rescaler.shrink`.
        target: as for :func:`rescaler.rescale`, on the device that trains it.
        mode: interpolation, as for :func:`rescaler.rescale_kernel`.

    Raises:
        InputError: it has no parameter of ``pretrain``, the networks do not belong together, or a value is not finite;
            the optimizer is not changed then.
    """
    before: dict[Tensor, str] = {parameter: name for name, parameter in pretrain.named_parameters()}
    after = dict(target.named_parameters())
    if odd := sorted(after.keys() ^ set(before.values())):
        raise InputError(f"the networks must have the same parameters; not in both: {listed(odd)}")
    if not any(parameter in before for group in optimizer.param_groups for parameter in group["params"]):
        raise InputError("the optimizer has no parameter of the pre-train network")
    tensors, others = {}, []
    for parameter, name in before.items():
        for key, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor):
                tensors[f"{name}.{key}"] = value
            else:
                others.append((after[name], key, value))
    tensors = rescale_state(tensors, pretrain, target, mode)
    for group in optimizer.param_groups:
        group["params"] = [after[before[each]] if each in before else each for each in group["params"]]
    for parameter in before:
        optimizer.state.pop(parameter, None)
    load_state_tensors(optimizer, target, tensors)
    for parameter, key, value in others:
        if parameter in optimizer.state:  # else it starts anew
            optimizer.state[parameter][key] = value
