"""Composing the jobs of a sweep."""

import pytest
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.types import HydraContext
from omegaconf import OmegaConf
from omegaconf.errors import ConfigAttributeError
from test_run import TINY

from rescaler import compose
from rescaler.sweeps.launching import plan_jobs


@pytest.mark.parametrize(
    "overrides",
    [
        ["resize_epoch=3", "seed=2"],
        ["model=resnet_small", "+model.widths=[4,8]", "schedule.epochs=12"],
        ["experiment=fashion_resnet", "resize_epoch=28", "rescale.momentum=rescale"],
        ["+model.widths=[4,8]", "model.widths=[8]", "~model.image_px", "data.std=[0.5]", "++name=other"],
        ["shrink=three_stages", "resize_epoch=[9,17]", "shrink.table={5: 3, 3: 2}"],
        ["schedule={epochs: 5, milestones: [2], learning_rates: [0.1, 0.01]}", "schedule.epochs=6"],
    ],
)
def test_jobs_are_composed_as_hydra_composes_them(overrides: list[str]) -> None:
    compose.register()
    with initialize_config_dir(str(compose.CONF.resolve()), version_base="1.3"):
        base = hydra_compose(compose.NAME, return_hydra_config=True)
        composer = compose.SweepComposer(GlobalHydra.instance().config_loader(), base)
        composer.settings(["seed=1"])  # another job of the sweep leaves nothing behind
        assert OmegaConf.to_container(composer.settings(overrides)) == OmegaConf.to_container(
            hydra_compose(compose.NAME, overrides)
        )
        with pytest.raises(ConfigAttributeError, match="Key 'resize_epoc' not in 'Experiment'"):
            composer.settings(["resize_epoc=3"])


def test_jobs_that_are_the_same_run_are_one(caplog: pytest.LogCaptureFixture) -> None:
    compose.register()
    with initialize_config_dir(str(compose.CONF.resolve()), version_base="1.3"):
        config = hydra_compose(compose.NAME, ["hydra.sweep.dir=sweep"], return_hydra_config=True)
        context = HydraContext(GlobalHydra.instance().config_loader(), callbacks=None)  # type: ignore[arg-type]
        jobs = [
            [f"resize_epoch={epoch}", *TINY] for epoch in ("auto", 3, 5)
        ]  # auto: an epoch before the milestone at 4
        planned = [one for _, one in plan_jobs(context, config, jobs, 0)]
    assert [one.entry.name for one in planned] == ["resize_epoch=auto", "resize_epoch=5"]
    assert [one.entry.folder for one in planned] == ["0", "1"]
    assert [one.folder.parts[-2:] for one in planned] == [("sweep", "0"), ("sweep", "1")]
    assert "resize_epoch=3 is the same run as resize_epoch=auto: it is run once" in caplog.text
