"""Measurements: of the harness, of the method, of the paper's networks; results in results/."""
