"""One training step."""

import contextlib

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from rescaler.models import loss_and_scores
from rescaler.training import processes, ranks
from rescaler.training.arithmetic import autocast
from rescaler.training.chain import Recipe
from rescaler.training.optimizer import SGD, Average
from rescaler.training.state import State


class TrainingStep:
    """Forward pass, backward pass and update on one batch. Nothing in it waits for the device.

    Args:
        state: trained in place; it has all that :meth:`State.prepare` gives it.
        recipe: of the epoch.
    """

    def __init__(self, state: State, recipe: Recipe) -> None:
        self._recipe, self._scaler = recipe, state.scaler
        self._network = processes.replicated(state.trained(recipe))
        self._network.train()
        self._optimizer = SGD(
            list(state.network.parameters()),
            list(state.momentum.values()),
            coefficient=recipe.momentum,
            nesterov=recipe.nesterov,
            weight_decay=recipe.weight_decay,
            fused=recipe.optimizer == "fused",
        )
        self._average = None
        if state.average is not None and recipe.ema_decay is not None:
            self._average = Average(state.average, state.network, recipe.ema_decay)

    def __call__(self, images: Tensor, labels: Tensor, learning_rate: float, number: int) -> Tensor:
        """Train on a batch.

        Args:
            images: this process's of the batch.
            labels: theirs.
            learning_rate: of this step.
            number: of this step, counted from the beginning of the training.

        Returns:
            Mean loss of the images, and how many of them were classified rightly: float32 ``(2,)``, on the device.
        """
        scores = self._gradients(images, labels)
        self._optimizer.learning_rate = learning_rate
        if self._scaler is None:
            self._optimizer.step()
        else:
            self._scaler.step(self._optimizer)  # type: ignore[arg-type]
            self._scaler.update()
        if self._average is not None:
            self._average.update(number)
        return scores

    def _gradients(self, images: Tensor, labels: Tensor) -> Tensor:
        """Leave the gradients of the batch's mean loss in the parameters, by as many images at once as are allowed."""
        self._optimizer.zero_grad()
        micro = self._recipe.micro_batch_size
        at_once = len(labels) if micro is None else micro // ranks.count()  # the same images as in a single process
        parts = list(zip(images.split(at_once), labels.split(at_once), strict=True))  # type: ignore[no-untyped-call]
        sums = torch.zeros(2, dtype=torch.float32, device=labels.device)
        for number, (some, theirs) in enumerate(parts, start=1):
            with self._alone() if number < len(parts) else contextlib.nullcontext():
                with autocast(self._recipe.precision, images.device.type):
                    output = self._network(some)
                    loss, scores = loss_and_scores(output, theirs, label_smoothing=self._recipe.label_smoothing)
                loss = loss * (len(theirs) / len(labels)) if len(parts) > 1 else loss
                (loss if self._scaler is None else self._scaler.scale(loss)).backward()  # type: ignore[no-untyped-call]
            sums += torch.stack([loss.detach(), (scores.detach().argmax(1) == theirs).sum()])
        return sums

    def _alone(self) -> contextlib.AbstractContextManager[None]:
        """Leave it to the last part of the batch to bring the processes' gradients together."""
        network = self._network
        return network.no_sync() if isinstance(network, DistributedDataParallel) else contextlib.nullcontext()
