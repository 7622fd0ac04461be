"""Shrink a network's kernels and rescale them to the target network's: the paper's method, on torch alone.

Here is what it has in common with settings, which are checked without torch: sizes of images, the strength of a fit.
"""

from typing import Any, TypeAlias

from rescaler.errors import ArgumentError

ImageSize: TypeAlias = int | tuple[int, int]
"""Side of square images in pixels, or height and width that differ."""
RIDGE = 10.0
"""Usual strength of :func:`rescaler.method.fit.fit`."""
MAX_IMAGE_PX = 2**14
SIZE_RULE = "a positive integer or [height, width], at most"


def is_image_size(value: Any) -> bool:
    """Whether a value is a side, or a list of height and width, from 1 to ``MAX_IMAGE_PX``."""
    sides = value if isinstance(value, list | tuple) else (value, value)
    return len(sides) == 2 and all(type(side) is int and 1 <= side <= MAX_IMAGE_PX for side in sides)


def image_size(value: Any) -> Any:
    """Return an image size in its one form: two equal sides are one, a list is a tuple; what is none as it is.

    A text of digits is a number, as of an environment variable.
    """
    if isinstance(value, str) and value.isdecimal():
        return int(value)
    if isinstance(value, int) or not is_image_size(value):
        return value
    h, w = value
    return h if h == w else (h, w)


def height_width(size: ImageSize) -> tuple[int, int]:
    """Return height and width."""
    return (size, size) if isinstance(size, int) else size


def size_text(size: ImageSize) -> str:
    """Return ``224``, or ``128x96``."""
    return str(size) if isinstance(size, int) else "x".join(map(str, size))


def check_integer(argument: str, value: Any, lowest: int, highest: int = MAX_IMAGE_PX, key: str = "") -> None:
    """Raise unless an argument is an integer in a range; ``key`` follows its name in the message."""
    if isinstance(value, bool) or not isinstance(value, int) or not lowest <= value <= highest:
        raise ArgumentError(argument, f"{key} must be an integer from {lowest} to {highest}; got {value!r}")
