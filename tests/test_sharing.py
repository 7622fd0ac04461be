from rescaler.training.sharing import Part, Trunk, trunks


def resized(epoch: int, epochs: int = 6) -> list[str]:
    """Keys of a run whose first ``epoch`` epochs are pre-training."""
    return [f"small{i}" if i <= epoch else f"{epoch}large{i}" for i in range(1, epochs + 1)]


def nothing(_: str) -> bool:
    return False


def test_runs_resized_at_several_epochs_share_all_but_the_last_of_the_longest() -> None:
    keys = [resized(2), resized(3), resized(4)]
    assert trunks(keys, nothing) == [Trunk((Part(1, 3, (2, 3)),), (0, 1, 2))]


def test_a_baseline_that_shares_nothing_is_no_branch() -> None:
    keys = [resized(0), resized(2), resized(6)]
    assert trunks(keys, nothing) == [Trunk((Part(1, 2, (2,)),), (1, 2))]


def test_a_trunk_that_forks_has_several_parts() -> None:
    # Two share a1 b2, two a1 c2, so all a1.
    keys = [["a1", "b2", "d3"], ["a1", "b2", "e3"], ["a1", "c2", "f3"], ["a1", "c2", "g3"]]
    assert trunks(keys, nothing) == [Trunk((Part(0, 2, (2,)), Part(2, 2, (2,))), (0, 1, 2, 3))]


def test_each_seed_has_its_own() -> None:
    keys = [[f"{seed}{key}" for key in resized(epoch)] for seed in (0, 1) for epoch in (2, 3)]
    assert [trunk.branches for trunk in trunks(keys, nothing)] == [(0, 1), (2, 3)]


def test_a_trunk_whose_states_are_there_is_not_trained_again() -> None:
    keys = [resized(2), resized(3), resized(4)]
    assert trunks(keys, {"small2", "small3"}.__contains__) == []
    assert len(trunks(keys, {"small3"}.__contains__)) == 1


def test_runs_without_common_epochs_have_none() -> None:
    assert trunks([["a"], ["b"], []], nothing) == []
