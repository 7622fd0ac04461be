"""Which of the processes that train one run together this is, from the environment that torchrun or srun gives it."""

import os


def count() -> int:
    """Return how many train the run together; 1 is the usual case."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def number() -> int:
    """Return this process's number, from 0. The first alone reads and writes the ledger, the run's folder and W&B."""
    return int(os.environ.get("RANK", "0")) if count() > 1 else 0


def share() -> slice:
    """Return which images of each batch are this process's."""
    return slice(number(), None, count())
