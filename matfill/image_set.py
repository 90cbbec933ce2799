"""A set of images, split into training, validation and test images; wherever they come from."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from matfill.errors import ConfigError

SPLITS = ("test", "val", "train")  # in the order of their rows
VAL_SHARE, TEST_SHARE = 0.05, 0.05  # of the images, where nothing says which is which

SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing", "t10k"), "test"),
}


@dataclass(frozen=True)
class ImageSet:
    """Images that are read-only arrays, often memory maps, uint8 (N, H, W, C); a split may be empty."""

    train: np.ndarray
    val: np.ndarray
    test: np.ndarray
    origin: Mapping[str, str]  #: of each split: "folder" (it was given), "train" (taken from train), "all" or "none"
    settings: Mapping[str, Any]  #: size, channels, fit, seed; and what `keeping` adds
    fingerprint: str  #: of the split and every pixel; the same on any machine
    labels: Mapping[str, np.ndarray] = field(default_factory=dict)  #: (N,) of each split whose classes are known
    names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  #: of the files, where every image is one
    unreadable: tuple[tuple[str, str], ...] = ()  #: (name, reason) of files that could not be decoded
    rebuilt: bool = False  #: an older cache no longer matched the folder or the settings, so all was decoded again

    def summary(self) -> dict[str, Any]:
        """What a weights file should remember of its data; plain values that JSON can store."""
        return {
            "images": {"train": len(self.train), "val": len(self.val), "test": len(self.test)},
            "unreadable": len(self.unreadable),
            "split": dict(self.origin),
            **self.settings,
            "fingerprint": self.fingerprint,
        }

    def keeping(self, most_val: int) -> ImageSet:
        """The same images with no more than `most_val` for validation, at random by the seed; the others join `train`.

        Those two splits are then copies in memory. Of the labels and names only those of the test images are kept.
        The settings remember `most_val`, and in `whole` the fingerprint of all the images as they were.
        """
        order = np.random.default_rng(self.settings["seed"]).permutation(len(self.val))
        kept, joining = np.sort(order[:most_val]), np.sort(order[most_val:])
        train, val = np.concatenate([self.train, self.val[joining]]), self.val[kept]
        for array in (train, val):
            array.flags.writeable = False
        return dataclasses.replace(
            self,
            train=train,
            val=val,
            settings={**self.settings, "most_val": most_val, "whole": self.fingerprint},
            fingerprint=hashlib.sha256(f"{self.fingerprint} {most_val}".encode()).hexdigest()[:16],
            labels={split: rows for split, rows in self.labels.items() if split == "test"},
            names={split: rows for split, rows in self.names.items() if split == "test"},
        )

    def require_unseen(self, trained: Mapping[str, Any]) -> None:
        """ConfigError where images that are for validation here had become training images of weights, by `keeping`.

        `trained` is the summary of the images that the weights were trained on.
        """
        if "most_val" not in trained or trained.get("whole") != self.settings.get("whole", self.fingerprint):
            return
        kept, most_val = trained["most_val"], self.settings.get("most_val")
        if most_val is None or most_val > kept:
            raise ConfigError(
                f"most_val is {most_val}; the weights to start from were trained on all but {kept} of the validation "
                f"images of this data: set most_val={kept}, or less"
            )


def split_of(name: str) -> str | None:
    """The split that a name speaks of: "valid", "x_train", "t10k-images-idx3-ubyte.gz"; None where it names none."""
    return next((SPLIT_NAMES[word] for word in re.split(r"[^a-z0-9]+", name.lower()) if word in SPLIT_NAMES), None)


def random_shares(count: int) -> tuple[int, int]:
    """How many of `count` images become test and val where nothing says which is which: 5 % each, at least one."""
    test, val = (max(1, round(share * count)) if count >= 3 else 0 for share in (TEST_SHARE, VAL_SHARE))
    return test, val
