"""The networks of an experiment, the smallest first and the target last; no data set is needed for them."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rescaler.method.description import Description
    from rescaler.settings import Experiment
    from rescaler.training.probe import Candidate

# Torch takes seconds to import, so it is imported where it is used.


def descriptions(experiment: "Experiment") -> "list[Description]":
    """Each pre-train network beside the target.

    Raises:
        InputError: ``model`` describes no network, or it cannot be shrunk this way.
    """
    from rescaler.method.description import compare
    from rescaler.method.trace import outline
    from rescaler.training.networks import initial_target, shrunk_stages

    target, data = outline(initial_target(experiment)), experiment.data
    stages = shrunk_stages(experiment, target)
    return [compare(target, shrunk, data.image_px, channels=data.channels) for shrunk in stages]


def candidates(experiment: "Experiment") -> "dict[str, Candidate]":
    """All networks by name, with the images they take, for :func:`rescaler.training.probe.measure`.

    Raises:
        InputError: ``model`` describes no network, or it cannot be shrunk this way.
    """
    from rescaler.training.networks import initial_target, shrunk_stages
    from rescaler.training.probe import Candidate

    data, target = experiment.data, initial_target(experiment)
    networks = [(shrunk.network, shrunk.image_px) for shrunk in shrunk_stages(experiment, target)]
    networks.append((target, data.image_px))
    names = network_names(len(networks))
    return {
        name: Candidate(network, image_px, data.channels, data.classes)
        for name, (network, image_px) in zip(names, networks, strict=True)
    }


def network_names(count: int) -> list[str]:
    """Names of so many networks: ``pre-train``, numbered if there are several, and ``target``."""
    if count == 2:
        return ["pre-train", "target"]
    return [*(f"pre-train {number}" for number in range(1, count)), "target"]
