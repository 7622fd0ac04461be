"""Weights & Biases as a mirror: it shows the run's records, and nothing that happens to it reaches the training.

    schema     how a run is laid out there: config, history, summary; both directions
    tracker    the training's side, an observer that only writes to a pipe
    client     passes on what the tracker writes, in a process of its own
    offline    the client's offline files, read back

A run that is started again has the same id, and logs what is missing: the epochs that neither the server nor an earlier
offline file of its folder has. So W&B has every epoch once, and ``wandb sync`` may send the files of all attempts.
"""

from rescaler.tracking.tracker import Tracker, resolve_mode

__all__ = ["Tracker", "resolve_mode"]
