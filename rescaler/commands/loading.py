"""What loading image files takes beside the steps of each network, and how to say it."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from rescaler.measuring import Spread
    from rescaler.settings import Experiment
    from rescaler.training.probe import Candidate

# Torch takes seconds to import, so it is imported where it is used.


def loading_s(
    experiment: "Experiment",
    networks: "Mapping[str, Candidate]",
    *,
    batch_size: int,
    device: "torch.device",
    say: Callable[[str], None],
) -> "dict[str, Spread] | None":
    """Seconds to load a batch for each network, or None where no file is read: see :mod:`rescaler.training.loading`.

    Raises:
        InputError: the files are damaged, or contradict the settings.
    """
    from rescaler.training.loading import batch_loading_s

    sizes_px = dict.fromkeys(network.image_px for network in networks.values())
    found = batch_loading_s(experiment.data, sizes_px, batch_size=batch_size, device=device, progress=say)
    return None if found is None else {name: found[network.image_px] for name, network in networks.items()}


def loading_notes(experiment: "Experiment", loading: "Mapping[str, Spread] | None", batch_size: int) -> list[str]:
    """What was found of loading, where images stream from files."""
    from rescaler.data import image_folder, streams_from_files

    data = experiment.data
    if not streams_from_files(data):
        return []
    if loading is None:
        return [f"Loading is not in it, and may eat what is saved: data.folder={image_folder(data)} holds no images."]
    each = ", ".join(f"{name} {milliseconds(spread)}" for name, spread in loading.items())
    return [
        f"Loading: {each} for {batch_size} images, with data.workers={data.workers} and nothing else to do. A step "
        "takes the longer of computing and loading."
    ]


def milliseconds(spread: "Spread") -> str:
    """Median and range."""
    median, low, high = (f"{1000 * seconds:,.2f}" for seconds in spread)
    return f"{median} ms ({low} to {high})"
