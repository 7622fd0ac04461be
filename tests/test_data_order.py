import pytest
import torch

from rescaler.data.order import epoch_order, sample_seeds, shifts_and_flips


@pytest.mark.parametrize(("count", "size"), [(10, 7), (4, 10), (6, 6)])
def test_epochs_go_through_whole_permutations(count: int, size: int) -> None:
    stream = torch.cat([epoch_order(count, seed=0, epoch=epoch, size=size) for epoch in range(1, count + 1)])
    passes = stream.view(size, count)
    assert torch.equal(passes.sort(dim=1).values, torch.arange(count).expand(size, count))
    assert len({tuple(row) for row in passes.tolist()}) > 1


def test_order_follows_from_the_seed() -> None:
    def order(seed: int) -> list[int]:
        return list(epoch_order(100, seed=seed, epoch=2, size=30).tolist())

    assert order(1) == order(1)
    assert order(1) != order(2)


def test_shifts_and_flips_are_uniform() -> None:
    top, left, flip = shifts_and_flips(2, seed=0, epoch=1, size=10_000)
    for shift in (top, left):
        assert set(shift.tolist()) == {0, 1, 2, 3, 4}
        assert torch.bincount(shift).float().div(10_000).sub(0.2).abs().max() < 0.02
    assert abs(flip.float().mean() - 0.5) < 0.02
    assert not torch.equal(top, left)


def test_augmentation_is_the_same_fraction_at_every_size() -> None:
    large_top, large_left, large_flip = shifts_and_flips(7, seed=0, epoch=1, size=1000)  # 15 steps: 3 for each of 5
    small_top, small_left, small_flip = shifts_and_flips(2, seed=0, epoch=1, size=1000)
    assert torch.equal(large_top // 3, small_top)
    assert torch.equal(large_left // 3, small_left)
    assert torch.equal(large_flip, small_flip)


def test_augmentation_differs_between_epochs() -> None:
    first, second = (shifts_and_flips(2, seed=0, epoch=epoch, size=100) for epoch in (1, 2))
    assert not torch.equal(first[0], second[0])
    seeds = torch.cat([sample_seeds(seed=0, epoch=epoch, size=100) for epoch in (1, 2)])
    assert len(set(seeds.tolist())) == 200
