"""Contact sheets put the right pixels in the right cells; the colours of uncertainty rise in lightness."""

import numpy as np
import pytest

from matfill import plots


def flat(colour, height=64, width=64):
    return np.full((height, width, 3), colour, dtype=np.uint8)


def cell_centre(sheet, row, column, rows, columns):
    """The colour in the middle of a cell of a sheet without captions, or a little above it where there are captions."""
    x = int((column + 0.5) * sheet.width / columns)
    y = int((row + 0.45) * sheet.height / rows)
    return sheet.getpixel((x, y))


def test_every_image_is_in_its_cell():
    colours = [[(255, 0, 0), (0, 255, 0), (0, 0, 255)], [(1, 2, 3), (4, 5, 6)]]
    sheet = plots.contact_sheet([[("a caption", flat(c)) for c in row] for row in colours])
    for i, row in enumerate(colours):
        for j, colour in enumerate(row):
            assert cell_centre(sheet, i, j, 2, 3) == colour
    assert cell_centre(sheet, 1, 2, 2, 3) == plots.BACKGROUND


@pytest.mark.parametrize(
    ("shape", "picture"),
    [((28, 28), 196), ((64, 64, 1), 192), ((64, 64, 3), 192), ((218, 178, 3), 218), ((1500, 3000, 3), 320)],
)
def test_a_cell_is_of_a_size_to_look_at(shape, picture):
    sheet = plots.contact_sheet([[("", np.zeros(shape, np.uint8))]])
    height, width = (round(side * picture / max(shape)) for side in shape[:2])
    assert sheet.size == (width + 2 * plots.MARGIN, height + 2 * plots.MARGIN)


def test_captions_are_written_below_and_only_where_there_are_any():
    plain = plots.contact_sheet([[("", flat(0))]])
    captioned = plots.contact_sheet([[("x", flat(0))]])
    assert captioned.width == plain.width
    assert captioned.height > plain.height
    strip = np.asarray(captioned)[plain.height - plots.MARGIN :]
    assert (strip != plots.BACKGROUND).any()


def test_a_long_caption_stays_in_its_cell():
    sheet = plots.contact_sheet([[("", flat(0)), ("w" * 500, flat(0)), ("", flat(0))]])
    middle = sheet.width // 3 - plots.MARGIN, sheet.width * 2 // 3 + plots.MARGIN
    strip = (np.asarray(sheet)[200:] != plots.BACKGROUND).any(axis=(0, 2))
    assert strip.any()
    assert not strip[: middle[0]].any()
    assert not strip[middle[1] :].any()


def test_tiny_images_keep_their_hard_edges():
    board = (np.indices((4, 4)).sum(0) % 2 * 255).astype(np.uint8)
    sheet = plots.contact_sheet([[("", board)]])
    inside = np.asarray(sheet)[plots.MARGIN : -plots.MARGIN, plots.MARGIN : -plots.MARGIN, 0]
    assert (inside == np.kron(board, np.ones((48, 48), np.uint8))).all()


def test_images_of_several_sizes_share_a_sheet():
    rows = [[("grey", np.zeros((10, 20), np.uint8)), ("tall", flat(255, 100, 50))], [("wide", flat(9, 3, 100))]]
    assert cell_centre(plots.contact_sheet(rows), 0, 1, 2, 2) == (255, 255, 255)


@pytest.mark.parametrize("rows", [[], [[]]])
def test_an_empty_sheet_is_refused(rows):
    with pytest.raises(ValueError, match="at least one image"):
        plots.contact_sheet(rows)


def test_uncertainty_rises_in_lightness_and_saturates():
    colours = plots.uncertainty_map(np.linspace(0, 0.25, 201)[None])[0]
    luminance = colours @ np.array([0.2126, 0.7152, 0.0722])
    assert (np.diff(luminance) > 0).all()
    assert luminance[0] < 2
    assert luminance[-1] > 240
    assert (plots.uncertainty_map(np.array([[0.25, 0.4, 1.0]])) == colours[-1]).all()
    assert (plots.uncertainty_map(np.array([[0.5]]), scale=1) == plots.COLOURS[4]).all()


@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 1), (6, 5, 3)])
def test_a_hole_is_painted_and_the_rest_kept(shape):
    pixels = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    before = pixels.copy()
    missing = np.zeros((6, 5), dtype=bool)
    missing[1:3, 2:4] = True
    shown = plots.show_hole(pixels, missing)
    assert shown.shape == (6, 5, 3)
    assert (shown[missing] == plots.HOLE).all()
    assert (shown[~missing] == pixels.reshape(6, 5, -1)[~missing]).all()
    assert (pixels == before).all()


@pytest.mark.parametrize(("count", "grid"), [(1, (1, 3)), (2, (2, 4)), (4, (2, 4)), (5, (3, 4)), (16, (3, 8))])
def test_the_sheet_of_a_filled_photo(count, grid):
    photo, mean, std = flat(10), flat(90), np.full((64, 64), 0.125)
    missing = np.ones((64, 64), dtype=bool)
    samples = [flat(100 + i) for i in range(count)]
    sheet = plots.inpainting_sheet(photo, missing, samples, mean, std)
    assert cell_centre(sheet, 0, 0, *grid) == (10, 10, 10)
    assert cell_centre(sheet, 0, 1, *grid) == plots.HOLE
    if count == 1:
        assert cell_centre(sheet, 0, 2, *grid) == (100, 100, 100)
        return
    assert cell_centre(sheet, 0, 2, *grid) == (90, 90, 90)
    assert cell_centre(sheet, 0, 3, *grid) == tuple(plots.COLOURS[4].astype(int))
    for i in range(count):
        row, column = divmod(i, grid[1])
        assert cell_centre(sheet, 1 + row, column, *grid) == (100 + i,) * 3


def test_masks_are_white_where_missing():
    whole, none = np.ones((32, 32), dtype=bool), np.zeros((32, 32), dtype=bool)
    sheet = plots.mask_sheet([whole, none, whole, none, none])
    expected = [[255, 0, 255, 0], [0]]
    for i, row in enumerate(expected):
        for j, value in enumerate(row):
            assert cell_centre(sheet, i, j, 2, 4) == (value,) * 3


@pytest.mark.parametrize(("count", "columns", "rows"), [(1, 1, 1), (2, 2, 1), (5, 3, 2), (64, 8, 8), (65, 9, 8)])
def test_samples_lie_on_a_grid_about_square_with_thin_gaps(count, columns, rows):
    samples = np.repeat(np.arange(count, dtype=np.uint8), 28 * 28).reshape(count, 28, 28, 1)
    sheet = plots.sample_sheet(samples)
    side = (sheet.width - plots.THIN) // columns - plots.THIN
    assert sheet.size == tuple(n * (side + plots.THIN) + plots.THIN for n in (columns, rows))
    assert side % 28 == 0
    assert sheet.width <= plots.SHEET + (columns + 1) * plots.THIN
    for i in range(count):
        assert cell_centre(sheet, i // columns, i % columns, rows, columns) == (i,) * 3


def test_groups_of_columns_lie_in_bands_with_names_at_the_left():
    columns = [[flat((10 * c + i, 0, 255), 28, 28) for i in range(3)] for c in range(5)]
    groups = [("first", columns[:2]), ("second", columns[2:4]), ("third", columns[4:])]
    sheet = plots.group_sheet(groups, ["test image", "k = 1", "k = 2"], most_columns=4)
    found = np.asarray(sheet)
    places = {}
    for value in (10 * c + i for c in range(5) for i in range(3)):
        rows, across = np.nonzero((found == (value, 0, 255)).all(-1))
        size = rows.max() - rows.min() + 1
        assert size == across.max() - across.min() + 1 and size % 28 == 0
        assert len(rows) == size**2  # all of it, and nothing over it
        places[value] = (rows.min(), across.min())
    tops = [places[10 * c][0] for c in range(5)]
    lefts = [places[10 * c][1] for c in range(5)]
    assert tops[0] == tops[1] == tops[2] == tops[3] < places[2][0] < tops[4]
    assert lefts[0] == lefts[4] < lefts[1] < lefts[2] < lefts[3]
    assert lefts[2] - lefts[1] > lefts[1] - lefts[0]
    assert places[2][0] - places[1][0] < places[1][0] - places[0][0]
    assert (found[tops[0] :, : lefts[0]] != plots.BACKGROUND).any()
