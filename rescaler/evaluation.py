"""Test a network on a whole test set."""

import dataclasses
import logging
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from rescaler import distributed, process
from rescaler.chain import Epoch
from rescaler.config import StepSettings
from rescaler.data.order import ImageData
from rescaler.errors import is_out_of_memory
from rescaler.method import ImageSize, size_text
from rescaler.plan import EVALUATION_IMAGES, Run
from rescaler.precision import MEMORY_FORMATS, autocast, computing
from rescaler.text import percent

log = logging.getLogger(__name__)


class Scores(NamedTuple):
    """Mean loss per image, and accuracies as fractions."""

    loss: float
    top1: float
    top5: float


def score(
    network: nn.Module,
    step: StepSettings,
    data: ImageData,
    image_px: ImageSize,
    *,
    after_batch: Callable[[], None] = lambda: None,
    confusion: Tensor | None = None,
) -> Scores:
    """Return loss and accuracies over the whole test set.

    Args:
        network: on the device of the data; put into evaluation mode.
        step: precision and memory format.
        data: whose test set is taken.
        image_px: size of the images.
        after_batch: called after each batch.
        confusion: int64 ``(classes, classes)``, on the device; overwritten by how many images of each class (row) were
            taken for each (column), of this process's share.
    """
    at_once = EVALUATION_IMAGES[next(network.parameters()).device.type]
    while True:
        try:
            return _score(network, step, data, image_px, after_batch, confusion, at_once)
        except RuntimeError as error:
            if at_once == 1 or not is_out_of_memory(error):
                raise
            at_once //= 2


@torch.inference_mode()
def _score(
    network: nn.Module,
    step: StepSettings,
    data: ImageData,
    image_px: ImageSize,
    after_batch: Callable[[], None],
    confusion: Tensor | None,
    at_once: int,
) -> Scores:
    network.eval()
    device = next(network.parameters()).device
    sums = torch.zeros(3, dtype=torch.float64, device=device)
    if confusion is not None:
        confusion.zero_()
    # A multiple of the processes' number, so that each image is one process's alone whatever has room in the others.
    size = at_once * process.world_size()
    with computing(step):
        for images, labels in data.test_batches(image_px=image_px, batch_size=size, share=process.share()):
            if len(labels) == 0:  # the last batch was too short for all processes
                continue
            with autocast(step.precision, device.type):
                scores = network(images.contiguous(memory_format=MEMORY_FORMATS[step.memory_format])).float()
            best = scores.topk(min(5, scores.shape[1]), dim=1).indices
            hits = best == labels[:, None]
            sums += torch.stack([cross_entropy(scores, labels, reduction="sum"), hits[:, 0].sum(), hits.sum()])
            if confusion is not None:
                confusion.index_put_((labels, best[:, 0]), torch.ones_like(labels), accumulate=True)
            after_batch()
    distributed.add_up(sums)
    return Scores(*(sums / data.test_count).tolist())


def log_given_weights(run: Run, epoch: Epoch, pretrain: nn.Module) -> None:
    """Log what given weights know before and after they were shrunk; nothing where a part of them was left out."""
    init, data = run.experiment.init, run.experiment.data
    if init.from_ is None or init.exclude or not epoch.stage.layers:
        return
    target = run.network(dataclasses.replace(epoch.stage, name="target", image_px=data.image_px, layers=()))
    before = score(target, epoch.recipe.step, run.data, data.image_px).top1
    after = score(pretrain, epoch.recipe.step, run.data, epoch.stage.test_px).top1
    log.info(
        "init.from=%s: test accuracy %s at %s px, %s at %s px after its kernels were shrunk",
        init.from_,
        percent(before, 2),
        size_text(data.image_px),
        percent(after, 2),
        size_text(epoch.stage.image_px),
    )
