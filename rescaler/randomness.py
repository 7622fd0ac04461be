"""Every random number follows from the run's seed and from where it is used, so no generator state needs saving."""

import hashlib
import json


def seed_for(seed: int, *parts: str | int) -> int:
    """Seed of one use of randomness: a hash of the run's seed and of what names the use.

    Args:
        seed: the run's seed.
        parts: names of the use, such as ``"order", 3``; ``3`` and ``"3"`` differ.

    Returns:
        Integer in ``[0, 2**63)``.
    """
    digest = hashlib.sha256(json.dumps([seed, *parts]).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
