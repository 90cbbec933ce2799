"""Hostile inputs: each ends in a correct picture or in one clear line, with the right exit code, and harms nothing."""

import hashlib
import io
import os
import signal
import socket
import struct
import sys
import warnings
import zlib
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageOps, PngImagePlugin

from matfill import cli, deep_color, library, tiff
from matfill.images import load_photo
from tests.tiny import tiny_model

OK = "a picture"
SIZE = (30, 20)
BOX = ("--mask", "box:4,3,9,8")
CASES: dict[str, tuple] = {}

rng = np.random.default_rng(0)
PIXELS = rng.integers(0, 256, (*SIZE[::-1], 3), dtype=np.uint8)
PHOTO = Image.fromarray(PIXELS)
HOLE = np.zeros(SIZE[::-1], bool)
HOLE[3:11, 4:13] = True


def case(name, expected, mask=BOX, *more):
    """`make` builds an input in the working folder and returns its path, or arguments that begin with it."""

    def note(make):
        assert name not in CASES
        CASES[name] = (make, expected, (*mask, *more))
        return make

    return note


def saved(image, name, **options):
    image.save(name, **options)
    return name


def written(name, data):
    Path(name).write_bytes(data)
    return name


def encoded(image, kind, **options):
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


# --- damaged files ---------------------------------------------------------------------------------------------------

for kind in ("jpg", "png", "webp", "tif", "bmp", "gif", "avif", "jp2"):
    name = {"jpg": "JPEG", "tif": "TIFF", "jp2": "JPEG2000"}.get(kind, kind.upper())
    whole = encoded(PHOTO.resize((120, 80)), name)
    for share in (0.1, 0.5, 0.9):
        cut = whole[: int(len(whole) * share)]
        case(f"{kind} cut at {share}", None)(lambda cut=cut, kind=kind: written(f"cut.{kind}", cut))
    noise = bytearray(whole)
    for at in range(len(whole) // 3, len(whole), 97):
        noise[at] ^= 0xFF
    case(f"{kind} with flipped bytes", None)(lambda noise=noise, kind=kind: written(f"noise.{kind}", bytes(noise)))

PNG = encoded(PHOTO, "PNG")
JPEG = encoded(PHOTO, "JPEG")
case("no bytes, png", "is not an image")(lambda: written("a.png", b""))
case("no bytes, jpg", "is not an image")(lambda: written("a.jpg", b""))
case("text", "is not an image")(lambda: written("a.jpg", b"no image\n" * 99))
case("a page of the web", "is not an image")(lambda: written("a.png", b"<!doctype html><html></html>"))
case("a drawing", "is not an image")(lambda: written("a.png", b'<svg xmlns="http://www.w3.org/2000/svg"/>'))
case("an archive", "is not an image")(lambda: written("a.tif", b"PK\x03\x04" + bytes(99)))
case("a beginning and no more, jpg", "a.jpg")(lambda: written("a.jpg", b"\xff\xd8\xff\xe0"))
case("a beginning and no more, png", "a.png")(lambda: written("a.png", PNG[:8]))
case("png without its end", None)(lambda: written("a.png", PNG[:-12]))
case("png with a wrong checksum", "a.png")(lambda: written("a.png", PNG[:29] + b"oops" + PNG[33:]))
case("jpg with more behind it", OK)(lambda: written("a.jpg", JPEG + b"and more" * 1000))
case("png with more behind it", OK)(lambda: written("a.png", PNG + b"and more" * 1000))


def png(width, height, depth=8, color=2, chunks=()):
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(bytes(99))), (b"IEND", b"")]
    return PNG[:8] + b"".join(deep_color.png_chunk(*part) for part in parts)


case("a bomb", "million pixels")(lambda: written("a.png", png(30_000, 30_000)))
case("a bomb of one bit", "million pixels")(lambda: written("a.png", png(30_000, 30_000, 1, 0)))
case("as large as can be said", "million pixels")(lambda: written("a.png", png(2**31 - 1, 2**31 - 1)))
case("of no size", "a.png")(lambda: written("a.png", png(0, 0)))
case("a bomb of text", None)(lambda: written("a.png", png(30, 20, 8, 2, [TEXT_BOMB])))
TEXT_BOMB = (b"zTXt", b"Comment\0\0" + zlib.compress(bytes(2**23)))

# --- sizes -----------------------------------------------------------------------------------------------------------

case("one pixel", "covers the whole image", ("--mask", "box:0,0,1,1"))(lambda: saved(PHOTO.resize((1, 1)), "a.png"))
case("two pixels", OK, ("--mask", "box:0,0,1,1"))(lambda: saved(PHOTO.resize((2, 1)), "a.png"))
case("1x20000", OK, ("--mask", "box:0,5000,1,700"))(lambda: saved(PHOTO.resize((1, 20_000)), "a.png"))
case("20000x1", OK, ("--mask", "box:5000,0,700,1"))(lambda: saved(PHOTO.resize((20_000, 1)), "a.jpg"))
case("a scattered hole", OK, ("--mask", "pixels99"))(lambda: saved(PHOTO, "a.png"))

# --- what is no plain file -------------------------------------------------------------------------------------------


@case("a folder", "no image file")
def _():
    Path("a.png").mkdir()
    return "a.png"


@case("a pipe that nobody writes to", "no regular file")
def _():
    os.mkfifo("a.png")
    return "a.png"


@case("a socket", "no regular file")
def _():
    with socket.socket(socket.AF_UNIX) as end:
        end.bind("a.png")
    return "a.png"


@case("a link to itself", "cannot read a.png")
def _():
    os.symlink("a.png", "a.png")
    return "a.png"


@case("a link to nothing", "there is no image")
def _():
    os.symlink("nothing.png", "a.png")
    return "a.png"


@case("a link to a photo", OK)
def _():
    saved(PHOTO, "b.png")
    os.symlink("b.png", "a.png")
    return "a.png"


case("endless zeros", "no regular file")(lambda: "/dev/zero")
case("nothing", "no regular file")(lambda: "/dev/null")
case("not there", "there is no image")(lambda: "nowhere.png")

# --- names -----------------------------------------------------------------------------------------------------------

NAMES = (
    "фото é 写真 🎨.png",
    "a photo.png",
    "[bold]red.png",
    "%s {0} \\n.png",
    "'\"$(rm -rf a)`.png",
    "a..png",
    "CON.png",
)
for odd in (*NAMES, "line\nbreak.png", "\x1b[31mred.png", os.fsdecode(b"\xff\xfe bytes.png"), "-dash.png"):
    case(f"named {odd!r}", OK)(lambda odd=odd: "./" + saved(PHOTO, odd))
    case(f"text named {odd!r}", "is not an image")(lambda odd=odd: written(f"./{odd}", b"no image"))
case("a name as long as can be", OK)(lambda: saved(PHOTO, "x" * 251 + ".png"))
case("a name as long as can be, twice", "File name too long", BOX, "--samples", "2")(
    lambda: saved(PHOTO, "x" * 251 + ".png")
)
case("a name too long", "File name too long")(lambda: "x" * 300 + ".png")
case("no extension", OK)(lambda: written("photo", PNG))
case("png that says jpg", OK)(lambda: written("a.jpg", PNG))
case("jpg that says png", OK)(lambda: written("a.png", JPEG))
case("capitals", OK)(lambda: written("A.JPEG", JPEG))

# --- where it goes ---------------------------------------------------------------------------------------------------

case("into what cannot be written", "cannot make the folder", BOX, "-o", "/proc/nope")(lambda: saved(PHOTO, "a.png"))
case("into a file", "cannot make the folder", BOX, "-o", "a.png/out")(lambda: saved(PHOTO, "a.png"))
case("onto itself", "would replace a photo", BOX, "-o", "a.png", "--overwrite")(lambda: saved(PHOTO, "a.png"))
case("beside itself", "would replace a photo", BOX, "-o", ".", "--overwrite")(lambda: saved(PHOTO, "a.png"))
case("with alpha into jpg", "transparency", BOX, "-o", "out/a.jpg")(lambda: saved(alpha("RGBA"), "a.png"))
case("with 16 bits into webp", "16-bit", BOX, "-o", "out/a.webp")(lambda: saved(grey16(), "a.png"))
case("too wide for webp", "WEBP", ("--mask", "box:0,0,9,1"), "-o", "out/a.webp")(
    lambda: saved(PHOTO.resize((20_000, 1)), "a.png")
)

# --- masks -----------------------------------------------------------------------------------------------------------


def masked(image, name="m.png", **options):
    """A photo, and this as its mask."""
    saved(PHOTO, "a.png")
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    return "a.png", "--mask", saved(image, name, **options)


WHITE_HOLE = np.where(HOLE, 255, 0).astype(np.uint8)
NONE: tuple[str, ...] = ()
case("mask all white", "covers the whole image", NONE)(lambda: masked(np.full(SIZE[::-1], 255, np.uint8)))
case("mask all black", "nothing is missing", NONE)(lambda: masked(np.zeros(SIZE[::-1], np.uint8)))
case("mask of another size", "20x30 but the image 30x20", NONE)(lambda: masked(WHITE_HOLE.T))
case("mask of 1 bit", OK, NONE)(lambda: masked(HOLE))
case("mask in colour", OK, NONE)(lambda: masked(np.stack([WHITE_HOLE] * 3, axis=2)))
case("mask with alpha", OK, NONE)(lambda: masked(np.stack([WHITE_HOLE] * 3 + [WHITE_HOLE * 0], axis=2)))
case("mask of 16 bits", OK, NONE)(lambda: masked(WHITE_HOLE.astype(np.uint16) * 257))
case("mask with a palette", OK, NONE)(lambda: masked(Image.fromarray(WHITE_HOLE).convert("P")))
case("mask in inks", OK, NONE)(lambda: masked(Image.fromarray(WHITE_HOLE).convert("CMYK"), "m.tif"))
case("mask as jpg", OK, NONE)(lambda: masked(WHITE_HOLE, "m.jpg", quality=100))
case("mask of floats", "32 bits deep", NONE)(lambda: masked(HOLE.astype(np.float32), "m.tif"))
case("mask that moves", "frames", NONE)(
    lambda: masked(HOLE, "m.gif", save_all=True, append_images=[Image.fromarray(~HOLE)])
)
case("mask of text", "not an image", NONE)(
    lambda: (masked(HOLE), written("t.png", b"no"), ("a.png", "--mask", "t.png"))[2]
)
case("mask that is an empty folder", "there is no mask", NONE)(
    lambda: (saved(PHOTO, "a.png"), os.mkdir("masks"), ("a.png", "--mask", "masks"))[2]
)
case("mask that is a device", "no regular file", ("--mask", "/dev/zero"))(lambda: saved(PHOTO, "a.png"))
case("mask that is nothing in words", "write one of", ("--mask", ""))(lambda: saved(PHOTO, "a.png"))
case("mask with a very long name", "there is no mask", ("--mask", "m" * 4000 + ".png"))(lambda: saved(PHOTO, "a.png"))
case("mask of an alpha that is not there", "no transparency", ("--mask", "alpha"))(lambda: saved(PHOTO, "a.png"))
case("mask of an alpha that hides nothing", "nothing is missing", ("--mask", "alpha"))(
    lambda: saved(PHOTO.convert("RGBA"), "a.png")
)
case("mask of a colour that is not there", "no pixel", ("--mask", "color:#010203"))(
    lambda: saved(Image.new("RGB", SIZE), "a.png")
)

# --- kinds of pixels -------------------------------------------------------------------------------------------------


def alpha(mode):
    image = PHOTO.convert(mode)
    image.putalpha(Image.fromarray(rng.integers(0, 256, SIZE[::-1], dtype=np.uint8)))
    return image


def grey16():
    return Image.fromarray(rng.integers(0, 65536, SIZE[::-1], dtype=np.uint16))


def deep(channels):
    return rng.integers(0, 65536, (*SIZE[::-1], channels), dtype=np.uint16)


def palette(**options):
    return encoded(PHOTO.quantize(200), "PNG", **options)


for mode in ("1", "L", "P", "RGB"):
    case(f"png in {mode}", OK)(lambda mode=mode: saved(PHOTO.convert(mode), "a.png"))
    case(f"gif in {mode}", OK)(lambda mode=mode: saved(PHOTO.convert(mode), "a.gif"))
    case(f"tif in {mode}", OK)(lambda mode=mode: saved(PHOTO.convert(mode), "a.tif"))
for mode in ("LA", "RGBA"):
    for kind in ("png", "webp", "tif", "tga"):
        case(f"{kind} in {mode}", OK)(lambda mode=mode, kind=kind: saved(alpha(mode), f"a.{kind}"))
case("png with a clear colour of its palette", OK)(lambda: written("a.png", palette(transparency=3)))
case("png with a palette partly clear", OK)(lambda: written("a.png", palette(transparency=bytes(range(200)))))
case("png in grey of 16 bits", OK)(lambda: saved(grey16(), "a.png"))
case("tif in grey of 16 bits", OK)(lambda: saved(grey16(), "a.tif"))
for channels in (2, 3, 4):
    case(f"png of 16 bits, {channels} channels", OK)(
        lambda channels=channels: written("a.png", deep_color.encode_png(deep(channels)))
    )
case("tif of 16 bits, 3 channels", OK)(lambda: written("a.tif", tiff.encode(deep(3))))
case("tif of 16 bits, 4 channels", OK)(lambda: written("a.tif", tiff.encode(deep(4), has_alpha=True)))
case("tif in inks of 16 bits", OK)(lambda: written("a.tif", tiff.encode(deep(4))))
case("tif in inks", OK)(lambda: saved(PHOTO.convert("CMYK"), "a.tif"))
case("jpg in inks, inverted as Adobe does", OK)(lambda: saved(PHOTO.convert("CMYK"), "a.jpg"))
case("tif of floats", "32 bits deep")(lambda: saved(PHOTO.convert("F"), "a.tif"))
case("tif of 32 bits", "32 bits deep")(lambda: saved(PHOTO.convert("I"), "a.tif"))
case("tif in Lab", "cannot be kept")(lambda: saved(Image.new("LAB", SIZE), "a.tif"))
case("ico", OK, ("--mask", "box:1,1,5,5"))(lambda: saved(PHOTO.resize((16, 16)), "a.ico"))
case("gif that moves", "2 frames")(lambda: saved(PHOTO, "a.gif", save_all=True, append_images=[PHOTO.rotate(180)]))
case("png that moves", "2 frames")(lambda: saved(PHOTO, "a.png", save_all=True, append_images=[PHOTO.rotate(180)]))
case("webp that moves", "2 frames")(lambda: saved(PHOTO, "a.webp", save_all=True, append_images=[PHOTO.rotate(180)]))
case("tif of pages", "2 frames")(lambda: saved(PHOTO, "a.tif", save_all=True, append_images=[PHOTO]))
case("jpg with a preview beside", OK)(
    lambda: saved(PHOTO, "a.jpg", format="MPO", save_all=True, append_images=[PHOTO.resize((6, 4))])
)

# --- metadata --------------------------------------------------------------------------------------------------------


def exif(orientation=1):
    block = Image.Exif()
    block[ExifTags.Base.Orientation] = orientation
    return block


for orientation in range(1, 9):
    hole = BOX if orientation < 5 else ("--mask", "box:3,4,8,9")
    for kind in ("jpg", "png", "tif", "webp", "avif"):
        case(f"{kind} of orientation {orientation}", OK, hole)(
            lambda orientation=orientation, kind=kind: saved(PHOTO, f"a.{kind}", exif=exif(orientation).tobytes())
        )
CIRCLE = b"Exif\0\0II*\0" + struct.pack("<IHHHIII", 8, 1, 0x8769, 4, 1, 8, 8)
for label, block in {
    "garbage": b"Exif\0\0garbage garbage",
    "nothing": b"Exif\0\0",
    "a circle": CIRCLE,
    "no entries": b"Exif\0\0II*\0" + struct.pack("<IH", 8, 0),
    "far away": b"Exif\0\0MM\0*" + struct.pack(">I", 2**31),
    "cut": exif(6).tobytes()[:-4],  # of which Pillow still reads that it is turned
    "cut further": exif(6).tobytes()[:-9],
    "too many entries": b"Exif\0\0II*\0" + struct.pack("<IH", 8, 65535) + bytes(99),
    "orientation 77": exif(77).tobytes(),
    "orientation 0": exif(0).tobytes(),
}.items():
    for kind in ("jpg", "png", "webp"):
        case(f"{kind} with EXIF: {label}", OK)(
            lambda block=block, kind=kind: saved(PHOTO, f"a.{kind}", exif=block) if kind != "png" else exif_png(block)
        )


def exif_png(block):
    head, tail = PNG[:33], PNG[33:]
    return written("a.png", head + deep_color.png_chunk(b"eXIf", block.removeprefix(b"Exif\0\0")) + tail)


for label, profile in {"garbage": b"garbage", "zeros": bytes(500), "long": b"abcd" * 50_000}.items():
    for kind in ("jpg", "png", "tif", "webp"):
        case(f"{kind} with a profile of {label}", OK)(
            lambda profile=profile, kind=kind: saved(PHOTO, f"a.{kind}", icc_profile=profile)
        )
case("inks with a profile of garbage", OK)(lambda: saved(PHOTO.convert("CMYK"), "a.tif", icc_profile=b"x" * 200))
case("a long text", OK)(lambda: saved(PHOTO, "a.png", pnginfo=text("x" * 200_000)))
case("a text of odd letters", OK)(lambda: saved(PHOTO, "a.png", pnginfo=text("\0\n\x1b[31mé🎨")))


def text(value):
    info = PngImagePlugin.PngInfo()
    info.add_itxt("Comment", value)
    return info


# --- the walk --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model():
    return library.Inpainter(tiny_model(), {})


@contextmanager
def at_most(seconds):
    def stop(*_):
        for path in Path().iterdir():
            if path.is_fifo():  # whoever waits for it goes on
                os.close(os.open(path, os.O_RDWR | os.O_NONBLOCK))
        raise TimeoutError(f"not done after {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds, 0.5)  # again and again, lest somebody swallow it
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def contents(folder):
    """Every file below it and what it holds; what is no plain file by its kind."""
    found = {}
    for path in sorted(folder.rglob("*")):
        plain = path.is_file() and not path.is_symlink()
        found[path] = hashlib.sha256(path.read_bytes()).hexdigest() if plain else path.lstat().st_mode
    return found


def seen(path):
    """The upright pixels as Pillow sees them, with 8 bits."""
    with warnings.catch_warnings(action="ignore"), Image.open(path) as image:
        with suppress(Exception):  # what it stumbles over in damaged EXIF
            image = ImageOps.exif_transpose(image)
        if image.mode.startswith("I;16"):
            return np.asarray(image).reshape(*image.size[::-1], 1)
        if image.mode not in ("L", "LA", "RGB", "RGBA", "CMYK") or "transparency" in image.info:
            grey = image.mode in ("1", "L")
            image = image.convert("RGBA" if image.has_transparency_data else "L" if grey else "RGB")
        return np.asarray(image).reshape(*image.size[::-1], -1)


def test_there_are_enough_of_them():
    assert len(CASES) >= 60


@pytest.mark.parametrize("name", CASES)
def test_hostile(name, model, tmp_path, monkeypatch, capsys):
    make, expected, options = CASES[name]
    monkeypatch.chdir(tmp_path)
    made = make()
    arguments = [made] if isinstance(made, str) else list(made)
    photo = Path(arguments[0])
    before = contents(tmp_path)
    out = [] if "-o" in options else ["-o", "out/"]
    monkeypatch.setattr(sys, "argv", ["matfill", "inpaint", *arguments, *options, *out])
    monkeypatch.setattr(library, "load", lambda *_: model)  # which takes time, and is the same every time
    with at_most(20), warnings.catch_warnings(record=True, action="always") as remarks:
        try:
            cli.main()
            code = 0
        except SystemExit as leaving:
            code = leaving.code or 0
    assert not remarks, "the user would see them"
    said, error = capsys.readouterr()
    after = contents(tmp_path)
    assert {path: after.get(path) for path in before} == before, "what was there has changed"
    fresh = [path for path in after if path not in before and path.is_file()]
    if code:
        assert code == 1 and said == ""
        assert error.startswith("error: ") and error.count("\n") == 1 and error.endswith("\n")
        assert "\x1b" not in error and "Traceback" not in error
        assert not fresh, "a file was left behind"
        assert expected != OK, error
        assert expected is None or expected in error
        return
    assert expected in (OK, None), f"it should have been refused: {expected}"
    assert error == "" and said.count("\n") == 1 and "\x1b" not in said
    (result,) = fresh
    a, b = seen(photo), seen(result)
    assert a.shape == b.shape and a.dtype == b.dtype
    if options[: len(BOX)] == BOX:
        missing = np.zeros(a.shape[:2], bool)
        missing[3:11, 4:13] = True
        lossless = (
            result.suffix.lower() not in (".jpg", ".jpeg", ".avif") and load_photo(result).origin.format != "JPEG"
        )
        if lossless:
            np.testing.assert_array_equal(a[~missing], b[~missing])
        assert (a[missing] != b[missing]).any()
