"""Image files: every depth, mode and orientation in; exactly the same pixels out; every failure in one line."""

import errno
import io
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from matfill import tiff
from matfill.errors import ImageError, MaskError
from matfill.formats import Origin
from matfill.images import Photo, decode, load_mask, load_photo, save_mask, save_photo

ORIENTATION = 274
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def random_photo(rng, dtype, channels, alpha, height=7, width=11):
    top = np.iinfo(dtype).max + 1
    layer = rng.integers(0, top, (height, width), dtype=dtype) if alpha else None
    if layer is not None:
        layer[0] = 0  # wholly transparent pixels keep their colours, too
    return Photo(rng.integers(0, top, (height, width, channels), dtype=dtype), layer)


def assert_same(a: Photo, b: Photo):
    assert a.pixels.dtype == b.pixels.dtype
    np.testing.assert_array_equal(a.pixels, b.pixels)
    assert (a.alpha is None) == (b.alpha is None)
    if a.alpha is not None:
        np.testing.assert_array_equal(a.alpha, b.alpha)


def tiff_16bit_rgb(pixels, order, planar=1):
    """An uncompressed TIFF of uint16 (H, W, 3), by hand: Pillow cannot write one."""
    height, width, _ = pixels.shape
    data = pixels.astype(f"{order}u2").tobytes()
    count, start = 10, 8 + 2 + 10 * 12 + 4
    tags = [(256, 3, 1, width), (257, 3, 1, height), (258, 3, 3, start), (259, 3, 1, 1), (262, 3, 1, 2)]
    tags += [(273, 4, 1, start + 6), (277, 3, 1, 3), (278, 3, 1, height), (279, 4, 1, len(data)), (284, 3, 1, planar)]
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, count)
    for tag, kind, number, value in tags:
        inline = kind == 3 and number == 1
        head += struct.pack(f"{order}HHIHH" if inline else f"{order}HHII", tag, kind, number, value, *[0] * inline)
    return head + b"\0\0\0\0" + struct.pack(f"{order}HHH", 16, 16, 16) + data


# --- round trips -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [False, True])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_png_gives_back_exactly_the_same_pixels(tmp_path, rng, dtype, channels, alpha):
    photo = random_photo(rng, dtype, channels, alpha)
    save_photo(photo, tmp_path / "a.png")
    assert_same(load_photo(tmp_path / "a.png"), photo)


@pytest.mark.parametrize(
    ("name", "dtype", "channels", "alpha"),
    [
        ("a.tif", np.uint8, 3, True),
        ("a.tif", np.uint8, 1, True),
        ("a.TIFF", np.uint16, 1, False),
        ("a.tif", np.uint16, 3, False),
        ("a.tif", np.uint16, 3, True),
        ("a.jp2", np.uint8, 3, True),
        ("a.jp2", np.uint16, 1, False),
        ("a.ppm", np.uint8, 3, False),
        ("a.tga", np.uint8, 3, True),
        ("a.bmp", np.uint8, 3, False),
        ("a.webp", np.uint8, 3, False),
        ("a.webp", np.uint8, 3, True),
    ],
)
def test_other_lossless_formats_give_back_the_same_pixels(tmp_path, rng, name, dtype, channels, alpha):
    photo = random_photo(rng, dtype, channels, alpha)
    save_photo(photo, tmp_path / name)
    assert_same(load_photo(tmp_path / name), photo)


def test_jpeg_is_close(tmp_path):
    ramp = np.linspace(0, 255, 64).astype(np.uint8)
    photo = Photo(np.stack([*np.meshgrid(ramp, ramp), np.full((64, 64), 99, np.uint8)], axis=2))
    save_photo(photo, tmp_path / "a.jpg")
    assert np.abs(load_photo(tmp_path / "a.jpg").pixels.astype(int) - photo.pixels).max() <= 8


def test_a_16_bit_png_of_other_software_is_read_in_full(tmp_path, rng):
    """No filter, no tricks: the simplest possible encoder, to hold our own reader against."""
    pixels = rng.integers(0, 65536, (5, 6, 3), dtype=np.uint16)
    raw = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    parts = [(b"IHDR", struct.pack(">IIBBBBB", 6, 5, 16, 2, 0, 0, 0)), (b"IDAT", zlib.compress(raw)), (b"IEND", b"")]
    key = tuple(int(v) for v in pixels[2, 3])
    for extra in ([], [(b"tRNS", struct.pack(">HHH", *key))]):
        chunks = parts[:1] + extra + parts[1:]
        body = b"".join(struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks)
        (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + body)
        photo = load_photo(tmp_path / "a.png")
        np.testing.assert_array_equal(photo.pixels, pixels)
    assert photo.alpha is not None and (photo.alpha == 0).sum() == 1 and photo.alpha[2, 3] == 0  # the colour of tRNS


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_16_bit_colour_tiff_is_read_in_full(tmp_path, rng, order):
    pixels = rng.integers(0, 65536, (5, 6, 3), dtype=np.uint16)
    (tmp_path / "a.tif").write_bytes(tiff_16bit_rgb(pixels, order))
    np.testing.assert_array_equal(load_photo(tmp_path / "a.tif").pixels, pixels)


@pytest.mark.parametrize(("kind", "read"), [(0, False), (1, False), (2, True)])
def test_a_fourth_channel_of_16_bits_is_alpha_or_refused(tmp_path, rng, kind, read):
    data = tiff.encode(rng.integers(0, 65536, (5, 6, 4), dtype=np.uint16), has_alpha=True)
    tag = struct.pack("<HHIHH", 338, 3, 1, 2, 0)
    assert data.count(tag) == 1
    (tmp_path / "a.tif").write_bytes(data.replace(tag, struct.pack("<HHIHH", 338, 3, 1, kind, 0)))
    if read:
        assert load_photo(tmp_path / "a.tif").pixels.dtype == np.uint16
    else:
        with pytest.raises(ImageError, match="no plain alpha"):
            load_photo(tmp_path / "a.tif")


def test_profile_exif_and_dpi_survive(tmp_path, rng):
    exif = Image.Exif()
    exif[0x010F] = "A camera"
    for dtype in (np.uint8, np.uint16):
        photo = random_photo(rng, dtype, 3, False)
        origin = Origin(icc_profile=SRGB, exif=exif.tobytes(), dpi=(300.0, 300.0))
        save_photo(Photo(photo.pixels, None, origin), tmp_path / "a.png")
        again = load_photo(tmp_path / "a.png").origin
        assert again.icc_profile == SRGB
        assert again.dpi == pytest.approx((300, 300), abs=0.01)
        with Image.open(tmp_path / "a.png") as image:
            assert image.getexif()[0x010F] == "A camera"


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.tif", "a.webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_turned_upright_and_saved_so(tmp_path, name, orientation):
    """Red at the top left, green at the top right, blue at the bottom left, white at the bottom right, once upright."""
    upright = Image.new("RGB", (32, 16))
    for color, at in (("red", (0, 0)), ("lime", (16, 0)), ("blue", (0, 8)), ("white", (16, 8))):
        upright.paste(color, (*at, at[0] + 16, at[1] + 8))
    T = Image.Transpose
    stored = {2: [T.FLIP_LEFT_RIGHT], 3: [T.ROTATE_180], 4: [T.FLIP_TOP_BOTTOM], 5: [T.TRANSPOSE]}
    stored |= {6: [T.ROTATE_90], 7: [T.TRANSVERSE], 8: [T.ROTATE_270]}
    image = upright
    for step in stored.get(orientation, []):
        image = image.transpose(step)
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    image.save(tmp_path / name, exif=exif, **{"a.webp": {"lossless": True}, "a.jpg": {"subsampling": 0}}.get(name, {}))
    photo = load_photo(tmp_path / name)
    assert photo.pixels.shape == (16, 32, 3)
    assert np.abs(photo.pixels.astype(int) - np.asarray(upright)).max() <= (3 if name == "a.jpg" else 0)
    save_photo(photo, tmp_path / "again.png")
    with Image.open(tmp_path / "again.png") as again:
        assert again.size == (32, 16) and again.getexif().get(ORIENTATION, 1) == 1


def test_the_exif_thumbnail_is_left_behind(tmp_path):
    """It would show what the user has just had removed."""
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(buffer, "JPEG")
    thumbnail = buffer.getvalue()
    first = struct.pack("<HHHIHHI", 1, 0x0112, 3, 1, 1, 0, 8 + 2 + 12 + 4)
    second = struct.pack("<HHHIIHHIII", 2, 0x0201, 4, 1, 26 + 30, 0x0202, 4, 1, len(thumbnail), 0)
    exif = b"Exif\0\0II*\0" + struct.pack("<I", 8) + first + second + thumbnail
    Image.new("RGB", (20, 10)).save(tmp_path / "a.jpg", exif=exif)
    assert thumbnail in (tmp_path / "a.jpg").read_bytes()
    save_photo(load_photo(tmp_path / "a.jpg"), tmp_path / "b.jpg")
    assert thumbnail not in (tmp_path / "b.jpg").read_bytes()


# --- modes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "color", "pixels", "alpha"),
    [
        ("1", 1, (255,), None),
        ("L", 77, (77,), None),
        ("LA", (77, 9), (77,), 9),
        ("P", 1, (10, 200, 30), None),
        ("RGB", (1, 2, 3), (1, 2, 3), None),
        ("RGBA", (1, 2, 3, 0), (1, 2, 3), 0),
        ("I;16", 12345, (12345,), None),
    ],
)
def test_every_mode_becomes_grey_or_rgb(tmp_path, mode, color, pixels, alpha):
    image = Image.new(mode, (4, 3), color)
    if mode == "P":
        image.putpalette([0, 0, 0, 10, 200, 30])
    image.save(tmp_path / "a.png")
    photo = load_photo(tmp_path / "a.png")
    assert photo.pixels.shape == (3, 4, len(pixels))
    assert (photo.pixels == pixels).all()
    assert (photo.alpha is None) if alpha is None else (photo.alpha == alpha).all()


def test_a_transparent_palette_colour_becomes_alpha(tmp_path):
    image = Image.new("P", (4, 3), 1)
    image.putpalette([0, 0, 0, 10, 200, 30])
    image.putpixel((2, 1), 0)
    image.save(tmp_path / "a.png", transparency=0)
    photo = load_photo(tmp_path / "a.png")
    assert (photo.pixels[0, 0] == (10, 200, 30)).all()
    assert photo.alpha is not None and photo.alpha[1, 2] == 0 and (photo.alpha == 255).sum() == 11


@pytest.mark.parametrize("name", ["a.tif", "a.jpg"])
def test_inks_stay_inks_and_are_seen_and_filled_as_colours(tmp_path, name):
    profile = b"\0" * 16 + b"CMYK" + b"\0" * 200  # of no use, but the file's own
    Image.new("CMYK", (4, 3), (0, 255, 255, 0)).save(tmp_path / name, icc_profile=profile)
    photo = load_photo(tmp_path / name)
    assert (photo.pixels == (0, 255, 255, 0)).all() and photo.alpha is None
    assert (photo.view(3) == (255, 0, 0)).all() and (photo.preview(2) == (255, 0, 0)).all()
    missing = np.indices((3, 4)).sum(0) == 0
    green = np.array([[0, 1, 0]], np.float32)
    filled = photo.composite(green, missing)
    assert filled.pixels[0, 0].tolist() == [255, 0, 255, 0] and (filled.pixels[~missing] == (0, 255, 255, 0)).all()
    save_photo(filled, tmp_path / f"again-{name}")
    with Image.open(tmp_path / f"again-{name}") as again:
        assert again.mode == "CMYK" and again.info["icc_profile"] == profile
        if name == "a.tif":
            np.testing.assert_array_equal(np.asarray(again), filled.pixels)


def test_decode_scales_16_bits_shows_white_through_and_weighs_colours():
    deep = Image.fromarray(np.array([[0, 257, 65535, 32896, 128, 129]], np.uint16))
    assert np.asarray(decode(deep, 1)).tolist() == [[0, 1, 255, 128, 0, 1]]
    assert decode(Image.new("RGBA", (1, 1), (0, 0, 0, 0)), 3).getpixel((0, 0)) == (255, 255, 255)
    assert decode(Image.new("LA", (1, 1), (0, 255)), 3).getpixel((0, 0)) == (0, 0, 0)
    assert decode(Image.new("RGB", (1, 1), (0, 255, 0)), 1).getpixel((0, 0)) == 150
    assert decode(Image.new("1", (1, 1), 1), 3).getpixel((0, 0)) == (255, 255, 255)


# --- view and composite ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_view_keeps_the_depth_and_converts_between_grey_and_rgb(dtype):
    top = np.iinfo(dtype).max
    rgb = Photo(np.array([[[0, 0, 0], [top, top, top], [0, top, 0]]], dtype))
    assert rgb.view(3).dtype == rgb.view(1).dtype == dtype and (rgb.view(3) == rgb.pixels).all()
    assert rgb.view(1)[..., 0].tolist() == [[0, top, round(0.587 * top)]]
    grey = Photo(np.array([[[0], [top]]], dtype))
    assert grey.view(3).tolist() == [[[0, 0, 0], [top, top, top]]] and grey.view(1).shape == (1, 2, 1)


@pytest.mark.parametrize("model_channels", [1, 3])
@pytest.mark.parametrize("alpha", [False, True])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_outside_the_hole_nothing_changes_by_a_single_bit(rng, tmp_path, dtype, channels, alpha, model_channels):
    photo = random_photo(rng, dtype, channels, alpha, 20, 30)
    missing = rng.random((20, 30)) < 0.4
    filled = photo.composite(rng.random((missing.sum(), model_channels), dtype=np.float32), missing)
    np.testing.assert_array_equal(filled.pixels[~missing], photo.pixels[~missing])
    assert (filled.pixels[missing] != photo.pixels[missing]).any()
    assert filled.alpha is photo.alpha and filled.pixels.dtype == dtype
    save_photo(filled, tmp_path / "a.png")
    assert_same(load_photo(tmp_path / "a.png"), filled)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_view_composited_back_is_the_photo_itself(dtype):
    values = np.arange(np.iinfo(dtype).max + 1, dtype=dtype)
    photo = Photo(values.reshape(-1, 16, 1))
    everywhere = np.ones(photo.pixels.shape[:2], bool)
    assert_same(photo.composite(photo.view(1)[everywhere] / np.float32(np.iinfo(dtype).max), everywhere), photo)


def test_a_filling_is_rounded_clipped_and_converted():
    grey, rgb = Photo(np.zeros((1, 4, 1), np.uint8)), Photo(np.zeros((1, 4, 3), np.uint8))
    missing = np.array([[True, True, True, False]])
    filling = np.array([[0.5019], [1.7], [-0.2]], np.float32)
    assert grey.composite(filling, missing).pixels[0, :, 0].tolist() == [128, 255, 0, 0]
    assert rgb.composite(filling, missing).pixels[0].tolist() == [[128] * 3, [255] * 3, [0] * 3, [0] * 3]
    green = np.tile(np.array([0, 1, 0], np.float32), (3, 1))
    assert grey.composite(green, missing).pixels[0, :, 0].tolist() == [150, 150, 150, 0]


def test_composite_refuses_other_sizes():
    photo = Photo(np.zeros((3, 4, 1), np.uint8))
    with pytest.raises(MaskError, match=r"3x4.*4x3"):
        photo.composite(np.zeros((0, 1), np.float32), np.zeros((4, 3), bool))


# --- what cannot be read or written ----------------------------------------------------------------------------------


def refusal(action, *args, kind=ImageError, **options):
    with pytest.raises(kind) as caught:
        action(*args, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_is_not_there_or_no_image_is_named(tmp_path):
    (tmp_path / "text.png").write_text("no image at all")
    (tmp_path / "empty.png").touch()
    assert "there is no image" in refusal(load_photo, tmp_path / "nowhere.png")
    assert "is a folder" in refusal(load_photo, tmp_path)
    for name in ("text.png", "empty.png"):
        message = refusal(load_photo, tmp_path / name)
        assert "not an image" in message and name in message


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.tif"])
def test_a_truncated_file_is_refused(tmp_path, rng, name):
    Image.fromarray(rng.integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(tmp_path / name)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    assert name in refusal(load_photo, tmp_path / name)


def test_a_decompression_bomb_is_refused(tmp_path, monkeypatch):
    Image.new("L", (100, 100)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 6000)
    load_photo(tmp_path / "a.png")  # large, but below twice the limit: no error, and no warning either
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4000)
    assert "million pixels; scale it down" in refusal(load_photo, tmp_path / "a.png")


@pytest.mark.parametrize("name", ["a.gif", "a.png", "a.tif", "a.webp"])
def test_animations_and_pages_are_refused(tmp_path, name):
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue", "lime")]
    frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
    assert "3 frames" in refusal(load_photo, tmp_path / name)


def test_the_preview_inside_a_phones_jpeg_is_no_frame(tmp_path):
    image = Image.new("RGB", (8, 8), "red")
    image.save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[image.resize((4, 4))])
    assert load_photo(tmp_path / "a.jpg").pixels.shape == (8, 8, 3)


def test_depths_and_layouts_that_would_be_misread_are_refused(tmp_path):
    Image.new("F", (4, 4)).save(tmp_path / "a.tif")
    assert "32 bits deep" in refusal(load_photo, tmp_path / "a.tif")
    (tmp_path / "b.tif").write_bytes(tiff_16bit_rgb(np.zeros((4, 4, 3), np.uint16), "<", planar=2))
    assert "planes" in refusal(load_photo, tmp_path / "b.tif")


@pytest.mark.parametrize("name", ["a.xyz", "a", "a.gif"])
def test_an_unknown_extension_is_named_with_what_there_is(tmp_path, name):
    message = refusal(save_photo, Photo(np.zeros((2, 2, 3), np.uint8)), tmp_path / name)
    assert repr(os.path.splitext(name)[1]) in message and ".png" in message
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "dtype", "channels", "alpha", "word"),
    [
        ("a.jpg", np.uint8, 3, True, "transparency"),
        ("a.jpg", np.uint16, 1, False, "16-bit"),
        ("a.webp", np.uint16, 3, False, "16-bit"),
        ("a.tif", np.uint16, 1, True, "16-bit"),
        ("a.bmp", np.uint8, 1, True, "transparency"),
    ],
)
def test_a_format_that_would_lose_depth_or_alpha_is_refused(tmp_path, rng, name, dtype, channels, alpha, word):
    message = refusal(save_photo, random_photo(rng, dtype, channels, alpha), tmp_path / name)
    assert word in message and ".png" in message and not list(tmp_path.iterdir())


def test_a_missing_folder_a_folder_in_the_way_and_an_oversized_image(tmp_path):
    photo = Photo(np.zeros((2, 2, 3), np.uint8))
    assert "there is no folder" in refusal(save_photo, photo, tmp_path / "no" / "a.png")
    (tmp_path / "dir.png").mkdir()
    assert "dir.png" in refusal(save_photo, photo, tmp_path / "dir.png")
    assert [p.name for p in tmp_path.iterdir()] == ["dir.png"]
    assert "save it as .png" in refusal(save_photo, Photo(np.zeros((1, 70_000, 1), np.uint8)), tmp_path / "wide.jpg")


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    old, new = (Photo(np.full((2, 2, 3), value, np.uint8)) for value in (1, 2))
    save_photo(old, tmp_path / "a.png")

    def full(_handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    assert "disk is full" in refusal(save_photo, new, tmp_path / "a.png")
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]
    assert_same(load_photo(tmp_path / "a.png"), old)


def test_a_saved_file_is_as_readable_as_any_other(tmp_path):
    (tmp_path / "usual").touch()
    save_photo(Photo(np.zeros((2, 2, 3), np.uint8)), tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_mode == (tmp_path / "usual").stat().st_mode


# --- masks -----------------------------------------------------------------------------------------------------------


def test_a_mask_file_round_trip(tmp_path, rng):
    missing = rng.random((5, 9)) < 0.5
    for name in ("a.png", "a.bmp", "a.webp"):
        save_mask(missing, tmp_path / name)
        np.testing.assert_array_equal(load_mask(tmp_path / name, 9, 5), missing)
    with Image.open(tmp_path / "a.png") as image:
        assert image.mode == "L" and set(image.get_flattened_data()) == {0, 255}


def test_white_is_from_128_in_any_mode_and_alpha_is_ignored(tmp_path):
    levels = np.array([[0, 127, 128, 255]], np.uint8)
    expected = [[False, False, True, True]]
    clear = np.zeros_like(levels)
    images = [levels, np.stack([levels] * 3, axis=2), np.stack([levels] * 3 + [clear], axis=2)]
    images += [np.stack([levels, clear], axis=2), levels.astype(np.uint16) * 257]
    for pixels in images:
        Image.fromarray(pixels).save(tmp_path / "a.png")
        assert load_mask(tmp_path / "a.png", 4, 1).tolist() == expected
        assert load_mask(tmp_path / "a.png", 4, 1, invert=True).tolist() == [[True, True, False, False]]
    Image.fromarray(levels >= 128).save(tmp_path / "a.png")  # 1-bit
    assert load_mask(tmp_path / "a.png", 4, 1).tolist() == expected


def test_masks_that_cannot_serve_are_refused(tmp_path):
    save_mask(np.zeros((3, 4), bool), tmp_path / "empty.png")
    save_mask(np.ones((3, 4), bool), tmp_path / "full.png")
    wrong = refusal(load_mask, tmp_path / "full.png", 640, 480, kind=MaskError)
    assert "4x3" in wrong and "640x480" in wrong
    assert load_mask(tmp_path / "empty.png", 4, 3, invert=True).all()
    assert "there is no image" in refusal(load_mask, tmp_path / "nowhere.png", 4, 3, kind=MaskError)
