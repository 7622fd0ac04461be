"""Commands of ``python -m rescaler``: each module adds its parser and does its work."""
