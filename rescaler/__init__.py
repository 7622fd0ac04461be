"""Train convolutional networks faster by kernel rescaling (Gusmão et al.).

The method is a library on plain torch: :func:`shrink` makes the pre-train network, :func:`rescale` carries its weights
to the target network. The harness around it is ``python -m rescaler.run``.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rescaler.method.description import Description, describe
    from rescaler.method.kernels import KERNEL_TABLE, TABLE_1, rescale_kernel
    from rescaler.method.rescaling import rescale, rescale_tensors
    from rescaler.method.shrinking import Shrunk, shrink
    from rescaler.modelfile import load
    from rescaler.optim import rescale_optimizer

__all__ = [
    "KERNEL_TABLE",
    "TABLE_1",
    "Description",
    "Shrunk",
    "describe",
    "load",
    "rescale",
    "rescale_kernel",
    "rescale_optimizer",
    "rescale_tensors",
    "shrink",
]

_HOMES = {
    "Description": "rescaler.method.description",
    "describe": "rescaler.method.description",
    "load": "rescaler.modelfile",
    "KERNEL_TABLE": "rescaler.method.kernels",
    "TABLE_1": "rescaler.method.kernels",
    "rescale_kernel": "rescaler.method.kernels",
    "rescale": "rescaler.method.rescaling",
    "rescale_tensors": "rescaler.method.rescaling",
    "rescale_optimizer": "rescaler.optim",
    "Shrunk": "rescaler.method.shrinking",
    "shrink": "rescaler.method.shrinking",
}


def __getattr__(name: str) -> Any:
    # Torch takes seconds to import: commands that need none of it should not wait.
    import importlib

    if name not in _HOMES:
        raise AttributeError(f"module 'rescaler' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
