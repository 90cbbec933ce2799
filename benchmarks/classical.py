"""The classical methods that matfill is measured against, from OpenCV and scikit-image (the `bench` extra).

Each takes a photo, uint8 (H, W, C), and its hole, bool (H, W), and gives the filled photo; outside the hole it stays as
it was. Neither library is imported before it is used. As a program, fills a JPEG file with one of them, for
photo_speed.py to time:

    python benchmarks/classical.py "OpenCV Telea" photo.jpg mask.png filled.jpg
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.util import find_spec

import numpy as np
from PIL import Image

RADIUS = 3  # pixels, of OpenCV's methods, as in its documentation
QUALITY = 92  # of JPEG files


def telea(photo: np.ndarray, missing: np.ndarray) -> np.ndarray:
    """OpenCV's fast marching (Telea 2004)."""
    import cv2

    return cv2.inpaint(photo, missing.astype(np.uint8), RADIUS, cv2.INPAINT_TELEA).reshape(photo.shape)


def navier_stokes(photo: np.ndarray, missing: np.ndarray) -> np.ndarray:
    """OpenCV's transport of isophotes (Bertalmio et al. 2001)."""
    import cv2

    return cv2.inpaint(photo, missing.astype(np.uint8), RADIUS, cv2.INPAINT_NS).reshape(photo.shape)


def biharmonic(photo: np.ndarray, missing: np.ndarray) -> np.ndarray:
    """scikit-image's biharmonic interpolation (Damelin and Hoang 2018)."""
    from skimage.restoration import inpaint_biharmonic

    filled = photo.copy()
    smooth = inpaint_biharmonic(photo, missing, channel_axis=-1)[missing]
    filled[missing] = (255 * smooth.clip(0, 1)).round().astype(np.uint8)
    return filled


METHODS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "OpenCV Telea": telea,
    "OpenCV Navier-Stokes": navier_stokes,
    "scikit-image biharmonic": biharmonic,
}
PACKAGES = {"cv2": "opencv-python-headless", "skimage": "scikit-image"}


def require() -> None:
    """Ends the program with one line where a library is not installed."""
    if lacking := [package for module, package in PACKAGES.items() if not find_spec(module)]:
        sys.exit(f"error: {' and '.join(lacking)} not installed: pip install '.[bench]'")


def main(method: str, photo: str, mask: str, out: str) -> None:
    with Image.open(photo) as file, Image.open(mask) as hole:
        pixels, missing = np.asarray(file.convert("RGB")), np.asarray(hole.convert("L")) >= 128
    Image.fromarray(METHODS[method](pixels, missing)).save(out, quality=QUALITY)


if __name__ == "__main__":
    main(*sys.argv[1:])
