"""Networks with auxiliary classifiers (GoogLeNet, Inception), which return several scores in training mode."""

from torch import Tensor
from torch.nn.functional import cross_entropy

from rescaler.errors import InputError

AUXILIARY_WEIGHT = 0.3
"""Weight of an auxiliary classifier's loss (Szegedy et al., 2015, section 5)."""


def loss_and_scores(output: object, labels: Tensor, *, label_smoothing: float = 0.0) -> tuple[Tensor, Tensor]:
    """Loss of what a network returned in training mode, and its scores.

    Args:
        output: scores ``(images, classes)``, or a tuple of the network's scores and those of auxiliary classifiers.
        labels: ``(images,)``, class numbers.
        label_smoothing: share of a label that goes to all classes alike.

    Raises:
        InputError: ``output`` is neither.
    """
    if isinstance(output, Tensor):
        return cross_entropy(output, labels, label_smoothing=label_smoothing), output
    if not isinstance(output, tuple) or not output or not all(isinstance(scores, Tensor) for scores in output):
        raise InputError(
            f"in training, a network must return scores or a tuple of scores and auxiliary scores; "
            f"got a {type(output).__name__}"
        )
    scores = output[0]
    loss, *losses = [cross_entropy(each, labels, label_smoothing=label_smoothing) for each in output]
    return loss + AUXILIARY_WEIGHT * sum(losses), scores
