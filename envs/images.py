"""Resizing of image observations, with Pillow."""

from collections.abc import Callable

import numpy as np

Resizer = Callable[[np.ndarray], np.ndarray]


def image_resizer(size: int, method: str = "bilinear", grayscale: bool = False) -> Resizer:
    """A function from uint8 [H, W, 1 or 3] to a fresh uint8 [size, size, 1 or 3].

    `method` is `bilinear` (antialiased in Pillow; the filter of DreamerV3) or `box`. `grayscale`
    turns RGB into luminance before the resize.
    """
    from PIL import Image

    resample = {
        "bilinear": Image.Resampling.BILINEAR,
        "box": Image.Resampling.BOX,
    }[method]

    def resize(frame: np.ndarray) -> np.ndarray:
        height, width, channels = frame.shape
        mode = "RGB" if channels == 3 else "L"
        # frombuffer reads the array in place; Image.fromarray copies it.
        image = Image.frombuffer(
            mode, (width, height), np.ascontiguousarray(frame), "raw", mode, 0, 1
        )
        if grayscale:
            image = image.convert("L")
        resized = np.asarray(image.resize((size, size), resample))
        return resized.reshape(size, size, -1)

    return resize
