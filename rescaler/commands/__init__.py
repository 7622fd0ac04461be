"""What the commands of ``python -m rescaler`` do, a module for each; their arguments are in ``parser``."""
