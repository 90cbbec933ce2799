"""EXIF blocks: only what is meant changes, and damage is never more than a missing block."""

import struct

import numpy as np
import pytest
from PIL import ExifTags, Image

from matfill import exif

THUMBNAIL = bytes(range(1, 200))


def block(order="<", orientation=6, thumbnail=THUMBNAIL, note=b"maker note, with offsets of its own", kind=3):
    """IFD0 with an orientation and a maker's text; IFD1 with a thumbnail, if any."""
    mark = b"II*\0" if order == "<" else b"MM\0*"
    second = 8 + 2 + 2 * 12 + 4
    text = second + 2 + 2 * 12 + 4
    where = text + len(note)
    value = struct.pack(order + {3: "H2x", 4: "I"}[kind], orientation)
    data = mark + struct.pack(order + "I", 8) + struct.pack(order + "H", 2)
    data += struct.pack(order + "HHII", 0x010F, 2, len(note), text)
    data += struct.pack(order + "HHI", 0x0112, kind, 1) + value
    data += struct.pack(order + "I", second if thumbnail else 0)
    data += struct.pack(order + "H", 2)
    data += struct.pack(order + "HHII", 0x0201, 4, 1, where) + struct.pack(order + "HHII", 0x0202, 4, 1, len(thumbnail))
    return exif.PREFIX + data + struct.pack(order + "I", 0) + note + thumbnail


@pytest.mark.parametrize("kind", [3, 4])
@pytest.mark.parametrize("order", ["<", ">"])
def test_orientation_is_set_and_the_thumbnail_blotted_out_and_nothing_else(order, kind):
    before = block(order, kind=kind)
    assert exif.orientation_in(before) == 6
    after = exif.tidied(before, 1)
    assert len(after) == len(before)
    assert exif.orientation_in(after) == 1
    assert THUMBNAIL not in after
    assert after.endswith(bytes(len(THUMBNAIL)))
    changed = {i for i, (a, b) in enumerate(zip(before, after, strict=True)) if a != b}
    value, link, pixels = 6 + 8 + 2 + 12 + 8, 6 + 8 + 2 + 24, len(before) - len(THUMBNAIL)
    assert changed <= {*range(value, value + 4), *range(link, link + 4), *range(pixels, len(before))}
    loaded = Image.Exif()
    loaded.load(after)
    assert loaded[ExifTags.Base.Orientation] == 1
    assert not loaded.get_ifd(ExifTags.IFD.IFD1)


def test_without_a_thumbnail_and_turned_as_before_it_is_the_same_block():
    before = block(thumbnail=b"")
    assert exif.tidied(before, 6) == before
    assert exif.tidied(before[6:], 6) == before  # PNG and WebP store it without the prefix


def test_damage_costs_the_block_or_less():
    whole = block()
    for end in range(len(whole)):
        cut = exif.tidied(whole[:end], 1)
        assert cut is None or exif.orientation_in(cut) in (1, 6)
    assert exif.tidied(b"Exif\0\0no block at all", 1) is None
    assert exif.orientation_in(b"") == 1
    astray = bytearray(block())
    astray[6 + 8 + 2 + 24 : 6 + 8 + 2 + 28] = b"\xff\xff\xff\x7f"  # IFD1 lies far outside
    assert exif.orientation_in(exif.tidied(bytes(astray), 3)) == 3


@pytest.mark.parametrize("value", [0, 9, 255])
def test_an_orientation_that_is_none_is_upright(value):
    assert exif.orientation_in(block(orientation=value)) == 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_stored_and_seen_are_each_others_inverse_and_those_of_pillow(orientation):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    stored = exif.as_stored(pixels, orientation)
    np.testing.assert_array_equal(exif.as_seen(stored, orientation), pixels)
    image = Image.fromarray(np.ascontiguousarray(stored))
    image.getexif()[ExifTags.Base.Orientation] = orientation
    assert exif.orientation(image) == orientation
    np.testing.assert_array_equal(np.asarray(exif.upright(image)), pixels)
