import pytest
from conftest import MakeExperiment

from rescaler.config import StageSettings
from rescaler.errors import InputError
from rescaler.networks import Networks, networks_of

MIDDLE = StageSettings(table={1: 1, 3: 2, 5: 4}, image_px=22)


def test_runs_that_differ_elsewhere_share_their_networks(make_experiment: MakeExperiment) -> None:
    known: dict[str, Networks] = {}
    first = networks_of(make_experiment(), known)
    assert [small.image_px for small in first.pretrain] == [17]
    assert networks_of(make_experiment(seed=1, resize_epoch=2), known) is first
    assert networks_of(make_experiment(resize_epoch=0), known).pretrain == []
    assert networks_of(make_experiment(model__hidden=8), known).target is not first.target
    assert len(known) == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shrink__table": {3: 2}}, r"shrink.table has no kernel side for conv1 \(5x5.*\); it has \[3\]"),
        ({"shrink__table": {3: 3, 5: 5}}, "shrinks none of the network's kernels"),
        ({"shrink__table": {3: 4, 5: 3}}, r"shrink.table\[3\] must be an integer from 1 to 3; got 4"),
        ({"shrink__image_px": 2}, "shrink.image_px=2 does not suit the network"),
        ({"shrink__padding": {"conv9": 0}}, "shrink.padding: 'conv9' fits no convolution"),
        (
            {"shrink__middle": [StageSettings(table=MIDDLE.table, image_px=16)]},
            r"shrink.middle\[0\].image_px must be between 17, that of the stage before, and data.image_px=28; got 16",
        ),
        (
            {"shrink__middle": [MIDDLE, StageSettings(table={1: 1, 3: 2, 5: 3}, image_px=24)]},
            r"shrink.middle\[1\] must not be smaller than the stage before it, but its layer conv1 is: 3x3 after 4x4",
        ),
        (
            {"shrink__middle": [StageSettings(table={1: 1, 3: 2, 5: 3})]},
            r"shrink.middle\[0\] must differ from the stage before it; it has the same kernels and the same images",
        ),
        ({"shrink__middle": [StageSettings(table={5: 6})]}, r"shrink.middle\[0\].table\[5\] must"),
        ({"model__image_px": 32}, "cannot take images of 1x28x28"),
        ({"model": {"_target_": "torch.nn.Identity"}}, "data.classes=4"),
        ({"model": {"_target_": "networks.ExtraState"}}, "keeps _extra_state beside its tensors"),
    ],
)
def test_what_does_not_fit_is_refused(
    make_experiment: MakeExperiment, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        networks_of(make_experiment(**changes), {})
