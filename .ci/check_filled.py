"""Did `matfill inpaint` fill the photo? `check_filled.py PHOTO FOLDER PIXELS` exits with 1 and a reason if it did not.

The pictures in FOLDER of the photo's size are its fillings. A mask among them (grey, black and white only) says where
the hole is, else it is wherever any filling differs from the photo. It may have PIXELS at most.
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image


def main(photo_path: str, folder: str, most: str) -> None:
    with Image.open(photo_path) as file:
        photo = np.asarray(file.convert("RGB"))
    fillings, missing = [], None
    for path in sorted(Path(folder).glob("*.png")):
        with Image.open(path) as file:
            grey = file.mode in ("1", "L")
            pixels = np.asarray(file.convert("RGB"))
        if pixels.shape != photo.shape:
            continue  # a contact sheet
        if grey and np.isin(pixels, (0, 255)).all():
            missing = pixels[..., 0] == 255
        elif (pixels == photo).all(axis=-1).mean() > 0.3:  # else it is no filling but, say, an uncertainty map
            fillings.append((path, pixels))
    if len(fillings) < 4:
        sys.exit(f"{folder} holds {len(fillings)} fillings of {photo_path}, not 4 or more")
    if missing is None:
        missing = np.any([(pixels != photo).any(axis=-1) for _, pixels in fillings], axis=0)
    if not int(most) / 4 < missing.sum() <= int(most):
        sys.exit(f"{missing.sum()} pixels are missing or changed, but the hole should have up to {most}")
    for path, pixels in fillings:
        if (pixels[~missing] != photo[~missing]).any():
            sys.exit(f"{path} differs from the photo outside the hole")
        if (pixels[missing] == photo[missing]).all(axis=-1).mean() > 0.5:
            sys.exit(f"{path} has not filled the hole")
    if all((pixels == fillings[0][1]).all() for _, pixels in fillings):
        sys.exit("all fillings are the same")
    print(f"{len(fillings)} fillings, {missing.mean():.1%} missing, identical to the photo everywhere else")


if __name__ == "__main__":
    main(*sys.argv[1:])
