"""What a file holds besides its pixels is in the file that is written; what it should not hold is not."""

import io
import re
import struct

import numpy as np
import pillow_heif
import pytest
from PIL import ExifTags, Image, ImageCms, JpegImagePlugin, PngImagePlugin

from matfill import deep_color, exif, formats, tiff
from matfill.errors import ImageError
from matfill.formats import FORMATS, Origin
from matfill.images import Photo, load_photo, save_photo

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf tiff:Orientation="6">Ansel</rdf></x:xmpmeta>'
NOTE = b"maker note \0\1\2" * 9
OTHER = {"a.jpg": "b.png", "a.png": "b.jpg", "a.tif": "b.jpg", "a.webp": "b.png"}


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def camera(orientation: int = 1) -> Image.Exif:
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = "A camera"
    exif[ExifTags.Base.Orientation] = orientation
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.MakerNote] = NOTE
    exif.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitudeRef] = "N"
    exif.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitude] = (47.0, 22.0, 39.5)
    return exif


def smooth(width=48, height=32):
    y, x = np.mgrid[:height, :width]
    return np.stack([128 + 100 * np.sin(x / 9), 128 + 90 * np.cos(y / 7), 2.5 * x + 2 * y], axis=2).astype(np.uint8)


def assert_camera(path):
    with Image.open(path) as image:
        exif = image.getexif()
        assert exif[ExifTags.Base.Make] == "A camera"
        assert exif.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitude] == (47.0, 22.0, 39.5)
        assert exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.MakerNote] == NOTE


def again(source, target, **options):
    """`source` loaded, one corner changed, saved as `target`."""
    photo = load_photo(source)
    missing = np.zeros((photo.height, photo.width), bool)
    missing[:4, :4] = True
    save_photo(photo.composite(np.zeros((16, 3), np.float32), missing), target, **options)
    return photo


# --- metadata --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OTHER)
def test_exif_profile_resolution_and_xmp_survive_in_any_format(tmp_path, name):
    options = {"xmp": XMP} if name in ("a.jpg", "a.webp") else {}
    source = tmp_path / name
    Image.fromarray(smooth()).save(source, exif=camera().tobytes(), icc_profile=SRGB, dpi=(300, 300), **options)
    for target in (name.replace("a", "same"), OTHER[name]):
        again(source, tmp_path / target)
        assert_camera(tmp_path / target)
        with Image.open(tmp_path / target) as image:
            assert image.info["icc_profile"] == SRGB
            if options:
                assert b"Ansel" in image.info["xmp"]
            if "webp" not in name + target:
                assert image.info["dpi"] == pytest.approx((300, 300), abs=0.01)


def test_the_exif_of_a_jpeg_file_is_the_same_to_the_byte(tmp_path):
    Image.fromarray(smooth()).save(tmp_path / "a.jpg", exif=camera(6))
    again(tmp_path / "a.jpg", tmp_path / "b.jpg")
    with Image.open(tmp_path / "a.jpg") as a, Image.open(tmp_path / "b.jpg") as b:
        assert a.info["exif"] == b.info["exif"]


def test_comments_and_iptc_of_jpeg_survive_and_photoshops_thumbnail_does_not(tmp_path):
    iptc = b"\x1c\x02\x50\x00\x05Ansel"
    resources = b"".join(
        b"8BIM" + struct.pack(">HHI", kind, 0, len(data)) + data + bytes(len(data) % 2)
        for kind, data in ((1036, b"thumbnail"), (formats.IPTC, iptc))
    )
    segment = b"Photoshop 3.0\0" + resources
    extra = b"\xff\xed" + struct.pack(">H", len(segment) + 2) + segment
    Image.fromarray(smooth()).save(tmp_path / "a.jpg", comment=b"a comment", extra=extra)
    again(tmp_path / "a.jpg", tmp_path / "b.jpg")
    again(tmp_path / "a.jpg", tmp_path / "b.tif")
    data = (tmp_path / "b.jpg").read_bytes()
    assert b"thumbnail" not in data
    with Image.open(tmp_path / "b.jpg") as image:
        assert image.info["comment"] == b"a comment"
        assert image.info["photoshop"] == {formats.IPTC: iptc}
    assert load_photo(tmp_path / "b.tif").origin.iptc == iptc


@pytest.mark.parametrize("deep", [False, True])
def test_texts_and_the_meaning_of_colours_of_png_survive(tmp_path, rng, deep):
    info = PngImagePlugin.PngInfo()
    info.add_text("Author", "Ansel")
    info.add_itxt("Title", "Mönch", lang="de")
    info.add_text("Comment", "long " * 100, zip=True)
    info.add(b"gAMA", struct.pack(">I", 45455))
    info.add(b"cHRM", struct.pack(">8I", *range(31270, 31278)))
    pixels = rng.integers(0, 65536, (8, 9), dtype=np.uint16) if deep else smooth(9, 8)
    Image.fromarray(pixels).save(tmp_path / "a.png", pnginfo=info)
    again(tmp_path / "a.png", tmp_path / "b.png")
    with Image.open(tmp_path / "b.png") as image:
        assert image.text == {"Author": "Ansel", "Title": "Mönch", "Comment": "long " * 100}
        assert image.text["Title"].lang == "de"
        assert image.info["gamma"] == pytest.approx(0.45455)
        assert image.info["chromaticity"][0] == pytest.approx(0.3127)


def test_exif_that_another_program_wrote_as_text_is_kept_as_exif(tmp_path):
    block = camera(1).tobytes()
    info = PngImagePlugin.PngInfo()
    info.add_text("Raw profile type exif", f"\nexif\n{len(block):8}\n{block.hex()}\n", zip=True)
    Image.fromarray(smooth()).save(tmp_path / "a.png", pnginfo=info)
    again(tmp_path / "a.png", tmp_path / "b.png")
    assert_camera(tmp_path / "b.png")
    with Image.open(tmp_path / "b.png") as image:
        assert not image.text


@pytest.mark.parametrize("name", OTHER)
def test_stripped_of_all_that_tells_of_the_photo(tmp_path, name):
    options: dict = {"xmp": XMP, "comment": b"Ansel"} if name in ("a.jpg", "a.webp") else {}
    if name == "a.png":
        options["pnginfo"] = PngImagePlugin.PngInfo()
        options["pnginfo"].add_text("Author", "Ansel")
    source = tmp_path / name
    Image.fromarray(smooth()).save(source, exif=camera(6).tobytes(), icc_profile=SRGB, dpi=(300, 300), **options)
    photo = load_photo(source)
    for target in (name.replace("a", "same"), OTHER[name]):
        save_photo(Photo(photo.pixels, None, photo.origin.stripped()), tmp_path / target)
        data = (tmp_path / target).read_bytes()
        assert b"camera" not in data and b"Ansel" not in data and NOTE not in data
        with Image.open(tmp_path / target) as image:
            assert image.info["icc_profile"] == SRGB
            assert image.size == (32, 48)  # upright, since nothing says any more how to turn it


@pytest.mark.parametrize("profile", [b"no profile at all", b"\0" * 200, SRGB[:100]])
@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.tif", "a.webp"])
def test_a_broken_profile_does_no_harm(tmp_path, name, profile):
    Image.fromarray(smooth()).save(tmp_path / name, icc_profile=profile)
    photo = again(tmp_path / name, tmp_path / f"b{name[1:]}")
    again(tmp_path / name, tmp_path / "c.png")
    with Image.open(tmp_path / f"b{name[1:]}") as image:
        assert image.info.get("icc_profile", profile) == profile
        image.load()
    assert photo.pixels.shape == (32, 48, 3)


def test_a_grey_photo_keeps_the_profile_its_file_gave_it_and_passes_it_to_no_other(tmp_path):
    Image.fromarray(smooth()[..., 0]).save(tmp_path / "a.jpg", icc_profile=SRGB)  # common, if wrong
    again(tmp_path / "a.jpg", tmp_path / "b.jpg")
    again(tmp_path / "a.jpg", tmp_path / "b.png")
    assert load_photo(tmp_path / "b.jpg").origin.icc_profile == SRGB
    assert load_photo(tmp_path / "b.png").origin.icc_profile is None


# --- JPEG ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("subsampling", [0, 1, 2])
def test_a_jpeg_file_is_written_with_its_own_tables(tmp_path, subsampling, progressive):
    tables = [[2 + i // 8 + i % 8 for i in range(64)], [3 + i // 4 for i in range(64)]]
    options = {"qtables": tables, "subsampling": subsampling, "progressive": progressive}
    Image.fromarray(smooth()).save(tmp_path / "a.jpg", **options)
    again(tmp_path / "a.jpg", tmp_path / "b.jpg")
    with Image.open(tmp_path / "a.jpg") as a, Image.open(tmp_path / "b.jpg") as b:
        assert {k: list(v) for k, v in b.quantization.items()} == dict(enumerate(tables))
        assert JpegImagePlugin.get_sampling(b) == JpegImagePlugin.get_sampling(a) == subsampling
        assert bool(b.info.get("progressive")) == progressive
        difference = np.abs(np.asarray(a).astype(int) - np.asarray(b))[16:, 16:]
    assert difference.mean() < 0.5 and difference.max() <= 4


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_jpeg_file_lies_as_it_lay_and_is_seen_upright(tmp_path, orientation):
    """On the same grid of blocks, what is not filled survives nearly unchanged, even with uneven tables."""
    tables = [[4 + 3 * (i % 8) + i // 8 for i in range(64)]] * 2
    Image.fromarray(smooth(45, 29)).save(
        tmp_path / "a.jpg", exif=camera(orientation), qtables=tables, subsampling=0, dpi=(300, 200)
    )
    photo = again(tmp_path / "a.jpg", tmp_path / "b.jpg")
    assert photo.pixels.shape == ((29, 45, 3) if orientation < 5 else (45, 29, 3))
    with Image.open(tmp_path / "a.jpg") as a, Image.open(tmp_path / "b.jpg") as b:
        assert a.size == b.size and a.info["exif"] == b.info["exif"] and b.info["dpi"] == (300, 200)
    seen = load_photo(tmp_path / "b.jpg").pixels.astype(int)
    assert seen[:4, :4].max() < 60  # the corner that was changed is where it was seen
    assert np.abs(seen - photo.pixels)[8 + 8 :, 8 + 8 :].mean() < 0.5
    save_photo(photo, tmp_path / "c.png")
    with Image.open(tmp_path / "c.png") as other:
        assert other.size == (photo.width, photo.height)
        assert other.getexif()[ExifTags.Base.Orientation] == 1
        assert other.info["dpi"] == pytest.approx((300, 200) if orientation < 5 else (200, 300), abs=0.02)


def test_quality_is_what_is_asked_for(tmp_path):
    Image.fromarray(smooth()).save(tmp_path / "a.jpg", quality=90, subsampling=2)
    sizes = {}
    for name in ("b.jpg", "b.webp", "b.avif"):
        for quality in (10, 95):
            again(tmp_path / "a.jpg", tmp_path / name, quality=quality)
            sizes[name, quality] = (tmp_path / name).stat().st_size
        assert sizes[name, 10] < 0.8 * sizes[name, 95]
    with Image.open(tmp_path / "b.jpg") as image:
        assert JpegImagePlugin.get_sampling(image) == 2
    again(tmp_path / "a.jpg", tmp_path / "b.png", quality=10)
    assert (load_photo(tmp_path / "b.png").pixels[4:] == load_photo(tmp_path / "a.jpg").pixels[4:]).all()


@pytest.mark.parametrize("name", ["a.jpg", "a.webp", "a.tif", "a.avif"])
def test_what_is_said_in_xmp_alone_is_turned_and_never_twice(tmp_path, name):
    xmp = {"xmp": XMP} if name != "a.tif" else {"tiffinfo": {700: XMP}}
    Image.fromarray(smooth()).save(tmp_path / name, **xmp)
    photo = again(tmp_path / name, tmp_path / f"b{name[1:]}")
    assert photo.pixels.shape == (48, 32, 3)
    assert load_photo(tmp_path / f"b{name[1:]}").pixels.shape == (48, 32, 3)
    again(tmp_path / name, tmp_path / "c.png")
    assert load_photo(tmp_path / "c.png").pixels.shape == (48, 32, 3)


def test_what_is_too_long_for_jpeg_is_left_out(tmp_path):
    block = camera()
    block.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.MakerNote] = bytes(70_000)
    Image.fromarray(smooth()).save(tmp_path / "a.png", exif=block)
    again(tmp_path / "a.png", tmp_path / "b.jpg")
    again(tmp_path / "a.png", tmp_path / "b.png")
    with Image.open(tmp_path / "b.jpg") as jpeg, Image.open(tmp_path / "b.png") as png:
        assert not jpeg.getexif() and png.getexif()


# --- others ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_tiff_comes_out_upright_and_compressed_as_before(tmp_path, rng, orientation, compress):
    pixels = rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)
    (tmp_path / "a.tif").write_bytes(tiff.encode(pixels, compress=compress, exif=camera(orientation).tobytes()))
    photo = load_photo(tmp_path / "a.tif")
    assert photo.pixels.shape == ((20, 30, 3) if orientation < 5 else (30, 20, 3))
    again(tmp_path / "a.tif", tmp_path / "b.tif")
    assert_camera(tmp_path / "b.tif")
    with Image.open(tmp_path / "b.tif") as image:
        assert image.getexif()[ExifTags.Base.Orientation] == 1
        assert (image.info["compression"] == "raw") != compress
    np.testing.assert_array_equal(load_photo(tmp_path / "b.tif").pixels[4:], photo.pixels[4:])


@pytest.mark.parametrize("kind", ["png", "tif"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_16_bits_are_turned_upright_too(tmp_path, rng, orientation, channels, kind):
    upright = rng.integers(0, 65536, (20, 30, channels), dtype=np.uint16)
    stored = np.ascontiguousarray(exif.as_stored(upright, orientation))
    block = camera(orientation).tobytes()
    if kind == "tif":
        data = tiff.encode(stored, exif=block)
    else:
        data = deep_color.encode_png(stored)
        data = data[:33] + deep_color.png_chunk(b"eXIf", block.removeprefix(exif.PREFIX)) + data[33:]
    (tmp_path / f"a.{kind}").write_bytes(data)
    np.testing.assert_array_equal(load_photo(tmp_path / f"a.{kind}").pixels, upright)
    again(tmp_path / f"a.{kind}", tmp_path / f"b.{kind}")
    np.testing.assert_array_equal(load_photo(tmp_path / f"b.{kind}").pixels[4:], upright[4:])


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_tiff_of_many_strips(tmp_path, rng, dtype, channels, monkeypatch):
    monkeypatch.setattr(tiff, "STRIP", 500)
    pixels = rng.integers(0, np.iinfo(dtype).max, (37, 23, channels), dtype=dtype)
    (tmp_path / "a.tif").write_bytes(tiff.encode(pixels))
    np.testing.assert_array_equal(load_photo(tmp_path / "a.tif").pixels, pixels)


def test_every_format_writes_what_it_says_it_holds(rng):
    kinds = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4, "CMYK": 4}
    for name, form in FORMATS.items():
        for mode in form.modes:
            dtype = np.uint16 if mode.endswith(";16") else np.uint8
            kind = mode.removesuffix(";16")
            pixels = rng.integers(0, np.iinfo(dtype).max, (9, 7, kinds[kind]), dtype=dtype)
            alpha = pixels[..., -1].copy() if kind.endswith("A") else None
            data = formats.encode(pixels[..., : kinds[kind] - (alpha is not None)], alpha, Origin(), name)
            with Image.open(io.BytesIO(data)) as image:
                assert image.size == (7, 9) and image.format == name


PQ = dict(zip(formats.NCLX, (9, 16, 9, 1), strict=True))  # BT.2020, the perceptual quantiser


@pytest.mark.parametrize("depth", [10, 12])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_heic_keeps_more_than_8_bits_and_what_they_mean(tmp_path, channels, depth):
    pixels = np.linspace(0, 65535, 48 * 32 * channels).reshape(32, 48, channels).astype(np.uint16)
    options = {"bit_depth": depth, "quality": -1, "chroma": 444, "exif": camera().tobytes(), **PQ}
    (tmp_path / "a.heic").write_bytes(deep_color.encode_heif(pixels, options))
    photo = again(tmp_path / "a.heic", tmp_path / "b.heic", quality=100)
    again(tmp_path / "a.heic", tmp_path / "b.png")
    read = np.concatenate([photo.pixels, photo.alpha[..., None]], axis=2) if channels == 4 else photo.pixels
    assert read.shape == pixels.shape and read.min() == 0 and read.max() == 65535  # black and white of 16 bits
    assert np.abs(read.astype(int) - pixels).max() <= 65535 / 2 ** (depth - 2)  # colours went through YCbCr
    saved, png = load_photo(tmp_path / "b.heic"), load_photo(tmp_path / "b.png")
    assert len(np.unique(saved.pixels)) > 256
    assert np.abs(saved.pixels.astype(int) - photo.pixels)[8:].mean() < 65535 / 500  # it is no lossless format
    np.testing.assert_array_equal(png.pixels[4:], photo.pixels[4:])
    assert_camera(tmp_path / "b.heic")
    with Image.open(tmp_path / "b.heic") as image:
        assert image.info["bit_depth"] == depth and image.info.get("chroma", 444) == 444
        assert {key: image.info["nclx_profile"][key] for key in PQ} == PQ
    assert (b"cICP", bytes((9, 16, 0, 1))) in png.origin.chunks


def test_heic_of_8_bits_keeps_the_meaning_of_its_colours(tmp_path):
    p3 = dict(zip(formats.NCLX, (12, 13, 6, 1), strict=True))
    formats.register_plugins()
    Image.fromarray(smooth()).save(tmp_path / "a.heic", quality=95, chroma=444, **p3)
    assert again(tmp_path / "a.heic", tmp_path / "b.heic").pixels.dtype == np.uint8
    with Image.open(tmp_path / "b.heic") as image:
        assert image.info["bit_depth"] == 8 and image.info["chroma"] == 444
        assert {key: image.info["nclx_profile"][key] for key in p3} == p3


def test_deep_heic_with_premultiplied_alpha_is_refused(tmp_path):
    pixels = np.full((32, 48, 4), 30000, np.uint16)
    pillow_heif.encode("RGBa;16", (48, 32), pixels.tobytes(), tmp_path / "a.heic", quality=-1)
    with pytest.raises(ImageError, match="multiplied by their alpha"):
        load_photo(tmp_path / "a.heic")


def test_16_bits_do_not_go_into_heic_which_has_fewer(tmp_path):
    photo = Photo(np.zeros((32, 48, 3), np.uint16))
    with pytest.raises(ImageError, match="16-bit pixels"):
        save_photo(photo, tmp_path / "a.heic")


def test_opaque_pixels_go_into_a_format_without_alpha(tmp_path):
    photo = Photo(smooth(), np.full((32, 48), 255, np.uint8))
    save_photo(photo, tmp_path / "a.jpg")
    photo.alpha[3, 3] = 254
    with pytest.raises(ImageError, match="transparency"):
        save_photo(photo, tmp_path / "a.jpg")


def test_content_counts_and_not_the_name(tmp_path):
    Image.fromarray(smooth()).save(tmp_path / "a.jpg", "PNG")
    photo = load_photo(tmp_path / "a.jpg")
    assert photo.origin.format == "PNG"
    save_photo(photo, tmp_path / "b.jpg", format="PNG")
    np.testing.assert_array_equal(load_photo(tmp_path / "b.jpg").pixels, smooth())


def test_16_bits_that_pillow_would_cut_are_refused(tmp_path):
    (tmp_path / "a.ppm").write_bytes(b"P6 2 2 65535\n" + bytes(24))
    with pytest.raises(ImageError, match="16-bit"):
        load_photo(tmp_path / "a.ppm")
    Image.fromarray(np.zeros((8, 8), np.uint16)).save(tmp_path / "a.jp2")
    assert load_photo(tmp_path / "a.jp2").pixels.dtype == np.uint16
    Image.fromarray(smooth()).save(tmp_path / "b.jp2")
    data = bytearray((tmp_path / "b.jp2").read_bytes())
    depth = re.search(rb"\xff\x4f\xff\x51.{38}", bytes(data), re.DOTALL).end()
    assert data[depth] == 7
    data[depth] = 15
    (tmp_path / "b.jp2").write_bytes(data)
    with pytest.raises(ImageError, match="16-bit"):
        load_photo(tmp_path / "b.jp2")
