"""Random numbers that follow from the run's seed and from where they are used, so no generator state is saved."""

import contextlib
import hashlib
import json
import random
from collections.abc import Iterator


def seed_for(seed: int, *parts: str | int) -> int:
    """Hash the run's seed and the names of one use of randomness.

    Args:
        seed: the run's seed.
        parts: names of the use, such as ``"order", 3``; ``3`` and ``"3"`` differ.

    Returns:
        Integer in ``[0, 2**63)``.
    """
    digest = hashlib.sha256(json.dumps([seed, *parts]).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def seed_all(seed: int) -> None:
    """Seed torch on all devices, numpy and ``random``: a network may draw from any of them."""
    import numpy as np
    import torch

    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.manual_seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - the generator that a user's network may draw from
    random.seed(seed)


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed all generators of the CPU inside the block, and restore their states after it."""
    import numpy as np
    import torch

    states = np.random.get_state(), random.getstate()  # noqa: NPY002
    try:
        with torch.random.fork_rng(devices=[]):
            seed_all(seed)
            yield
    finally:
        np.random.set_state(states[0])  # noqa: NPY002
        random.setstate(states[1])
