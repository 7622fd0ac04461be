"""Runs whose files are damaged or gone, read from the ledger."""

import os
from pathlib import Path

from rescaler.errors import InputError, one_line
from rescaler.record import CHAIN_FILE, Record, read_sealed
from rescaler.summary import Summary, checked, iso, totals


def recover(folder: Path) -> tuple[Summary, list[tuple[Record, bool]]]:
    """Return a run's summary and epochs, by the keys in its ``chain.json`` from the ledger.

    Raises:
        InputError: ``chain.json`` is missing, damaged or of an earlier version, or the ledger lacks an epoch.
    """
    from rescaler.ledger import Ledger  # imports torch

    path = folder / CHAIN_FILE
    chain = read_sealed(path)
    try:
        ledger = Ledger(Path(os.path.normpath(folder.absolute() / chain["ledger"])))
        found = [(ledger.record(key), reused) for key, reused in zip(chain["epochs"], chain["reused"], strict=True)]
        summary = dict(chain["summary"])
    except InputError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: {one_line(error)}") from error
    epochs = [(record, reused) for record, reused in found if record is not None]
    if len(epochs) < len(found):
        raise InputError(f"{ledger.folder} lacks {len(found) - len(epochs)} of its epochs")
    status = "done" if len(epochs) == summary.get("epochs_planned") else "failed"
    standing = {"status": status, "error": None, "updated": iso(path.stat().st_mtime)}
    return checked({**summary, **standing, **totals(epochs)}), epochs
