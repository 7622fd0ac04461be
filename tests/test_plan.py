import dataclasses

import pytest
import torch
from conftest import MakeExperiment

from rescaler.errors import InputError
from rescaler.plan import plan


def test_what_changes_no_number_changes_no_id(make_experiment: MakeExperiment) -> None:
    run = plan(make_experiment())
    for same in ({"progress": True}, {"name": "other"}, {"data__workers": 7}, {"ledger__keep": "all"}):
        assert plan(make_experiment(**same)).id == run.id
    for other in ({"seed": 1}, {"optim__momentum": 0.5}, {"resize_epoch": 2}, {"rescale__interpolation": "bicubic"}):
        assert plan(make_experiment(**other)).id != run.id


def test_auto_is_the_run_that_it_resolves_to(make_experiment: MakeExperiment) -> None:
    assert plan(make_experiment(resize_epoch="auto")).id == plan(make_experiment(resize_epoch=3)).id


def test_the_target_baseline_is_one_whatever_is_shrunk(make_experiment: MakeExperiment) -> None:
    other = make_experiment(resize_epoch=0, shrink__table={1: 1, 3: 3, 5: 3}, schedule__hold_after_resize=True)
    assert plan(other).id == plan(make_experiment(resize_epoch=0)).id


def test_runs_compare_whatever_their_resize_epoch_and_seed(make_experiment: MakeExperiment) -> None:
    run = plan(make_experiment())
    for same in ({"resize_epoch": 0}, {"seed": 3}, {"schedule__hold_after_resize": True}):
        assert plan(make_experiment(**same)).comparison == run.comparison
    for other in ({"schedule__epochs": 7}, {"optim__batch_size": 8}, {"data__flip": False}):
        assert plan(make_experiment(**other)).comparison != run.comparison


def test_every_network_of_a_seed_starts_from_the_same_weights(make_experiment: MakeExperiment) -> None:
    run = plan(make_experiment())
    states = [run.network(run.chain.stages[0]).state_dict() for _ in range(2)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert states[0]["conv1.weight"].shape[2:] == (3, 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shrink__table": {3: 2}}, r"shrink.table has no kernel side for conv1 \(5x5\); it has \[3\]"),
        ({"shrink__table": {3: 3, 5: 5}}, "shrinks none of the network's kernels"),
        ({"shrink__table": {3: 4, 5: 3}}, "shrink.table maps a kernel side to one from 1 to itself"),
        ({"shrink__image_px": 2}, "shrink.image_px=2 does not suit the network"),
        ({"shrink__padding": {"conv9": 0}}, "shrink.padding: there is no convolution 'conv9'"),
        ({"model__image_px": 32}, "cannot take images of 1x28x28"),
        ({"optim__batch_size": 300, "schedule__batches_per_epoch": None}, "optim.batch_size must be at most 200"),
        ({"model": {"_target_": "torch.nn.Identity"}}, "data.classes=4"),
    ],
)
def test_what_does_not_fit_is_refused(
    make_experiment: MakeExperiment, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        plan(make_experiment(**changes))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_is_refused_where_there_is_none(make_experiment: MakeExperiment) -> None:
    with pytest.raises(InputError, match="device=cuda, but torch finds no CUDA device here"):
        plan(dataclasses.replace(make_experiment(), device="cuda"))
