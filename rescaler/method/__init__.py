"""Shrink a network's kernels and rescale them to the target network's: the paper's method, on torch alone."""
