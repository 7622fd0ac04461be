"""Sweeps: plan several runs, train them on this machine or on a SLURM cluster, see how they stand."""
