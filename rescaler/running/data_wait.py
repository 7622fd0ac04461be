"""Says when the files, not the network, set the pace."""

import logging

from rescaler.data import streams_from_files
from rescaler.measure import how_to_load_faster
from rescaler.record import Record
from rescaler.settings import DataSettings
from rescaler.training.chain import Epoch

log = logging.getLogger(__name__)

_MOST_WAITING = 0.1
"""Share of an epoch's training that may be waiting for images."""


class DataWait:
    """Warns once in a run, after an epoch in which more than a tenth of the training was waiting for image files.

    Sets in memory have no files to wait for: what they take is work on the device.

    Args:
        data: what the run trains on.
    """

    def __init__(self, data: DataSettings) -> None:
        self._data = data
        self._silent = not streams_from_files(data)

    def batch(self, epoch: Epoch, done: int) -> None:
        """Nothing to say yet."""

    def epoch(self, record: Record, *, reused: bool) -> None:
        """Look at the clocks of an epoch that was trained here."""
        epoch_s = record.train_s + record.data_s
        if reused or self._silent or record.data_s <= _MOST_WAITING * epoch_s:
            return
        self._silent = True
        log.warning(
            "epoch %d waited for images for %.0f %% of its time (%.1f of %.1f s, %s images/s at %d pixels): %s",
            record.epoch,
            100 * record.data_s / epoch_s,
            record.data_s,
            epoch_s,
            f"{record.images / epoch_s:,.0f}",
            record.image_px,
            how_to_load_faster(self._data),
        )
