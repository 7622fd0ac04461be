"""After a rescale the network follows the small one's scores for some batches."""

import torch
from bench import Bench
from conftest import MakeExperiment
from torch import nn
from torch.nn.functional import cross_entropy, softmax

from rescaler.models import Teacher


class Mean(nn.Module):
    """Scores of an image are multiples of its mean, whatever its size; in training they are noise."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        scores = images.mean((1, 2, 3))[:, None] * torch.arange(3.0)
        return torch.rand_like(scores) if self.training else scores


def test_loss_is_the_mean_of_the_labels_and_the_divergence_from_the_teacher() -> None:
    torch.manual_seed(0)
    images, scores, labels = torch.rand(4, 1, 8, 8), torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    teacher, loss = Teacher(Mean(), 4), cross_entropy(scores, labels)
    wanted, given = softmax(Mean().eval()(images) / 2, dim=1), softmax(scores / 2, dim=1)
    divergence = (wanted * (wanted / given).log()).sum(1).mean()  # Kullback and Leibler's
    found = teacher.distill(loss, scores, images)
    torch.testing.assert_close(found, 0.5 * loss + 0.5 * 4 * divergence, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(teacher.distill(loss, Mean().eval()(images), images), 0.5 * loss, rtol=1e-3, atol=1e-4)


def test_only_what_follows_the_rescale_learns_from_the_small_network(
    bench: Bench, make_experiment: MakeExperiment
) -> None:
    plain, taught = (
        bench.train(make_experiment(rescale__distill_batches=count, schedule__epochs=4, resize_epoch=3))
        for count in (0, 2)
    )
    assert [one.key for one in taught[:3]] == [one.key for one in plain[:3]]
    assert taught[3].train_loss != plain[3].train_loss
