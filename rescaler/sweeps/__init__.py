"""Many runs: their trunks, and where they are trained: on this machine or as jobs on a SLURM cluster."""
