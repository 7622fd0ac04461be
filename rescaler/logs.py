"""Logs where there is no Hydra to set them up: as it writes them."""

import logging


def to_terminal() -> None:
    """Write the log to standard error."""
    logging.basicConfig(level=logging.INFO, format="[%(asctime)s][%(name)s][%(levelname)s] - %(message)s")
