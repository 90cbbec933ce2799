"""Which photos become which files: nothing collides, no photo is replaced, seeds go by names."""

from pathlib import Path, PurePath

import pytest

from matfill.errors import ImageError
from matfill.filling_plan import Wanted, plan, seed_of


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def files(*names):
    for name in names:
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def outputs(photos, out="out", seed=0, **wanted):
    """Names of all outputs of each photo."""
    jobs = plan([Path(photo) for photo in photos], out, seed, Wanted(**wanted))
    return {str(job.path): {kind: str(path) for kind, path in job.outputs.items()} for job in jobs}


def test_one_photo_into_a_folder_or_a_file(here):
    files("in/a.jpg")
    assert outputs(["in/a.jpg"]) == {"in/a.jpg": {"1": "out/a.jpg"}}
    assert outputs(["in/a.jpg"], samples=2) == {"in/a.jpg": {"1": "out/a_1.jpg", "2": "out/a_2.jpg"}}
    assert outputs(["in/a.jpg"], "b.png") == {"in/a.jpg": {"1": "b.png"}}
    assert outputs(["in/a.jpg"], "x/b.png", samples=2)["in/a.jpg"]["2"] == "x/b_2.png"
    found = outputs(["in/a.jpg"], "b.webp", samples=2, mean=True, uncertainty=True, mask=True, sheet=True)["in/a.jpg"]
    assert list(found.values())[2:] == ["b_mean.webp", "b_uncertainty.png", "b_mask.png", "b_sheet.png"]
    (job,) = plan([Path("in/a.jpg")], "b.webp", 7, Wanted())
    assert (job.seed, job.format) == (7, "WEBP")


def test_what_looks_like_a_file_may_be_a_folder(here):
    files("in/a.jpg")
    Path("v1.2").mkdir()
    assert outputs(["in/a.jpg"], "v1.2") == {"in/a.jpg": {"1": "v1.2/a.jpg"}}
    assert outputs(["in/a.jpg"], "v1.3/") == {"in/a.jpg": {"1": "v1.3/a.jpg"}}
    with pytest.raises(ImageError, match="unknown extension"):
        plan([Path("in/a.jpg")], "v1.3", 0, Wanted())


def test_folders_keep_their_structure(here):
    files("in/a.jpg", "in/sub/deep/b.PNG", "in/notes.txt", "in/.hidden.png", "in/c.gif")
    found = {name: kinds["1"] for name, kinds in outputs(["in"]).items()}
    assert found == {"in/a.jpg": "out/a.jpg", "in/sub/deep/b.PNG": "out/sub/deep/b.PNG", "in/c.gif": "out/c.png"}


@pytest.mark.parametrize(
    "names",
    [
        ["in/a.jpg", "in/a.png", "in/a.gif"],
        ["in/a.jpg", "in/A.jpg"],
        ["in/a.gif", "in/a.png", "in/a_gif.png", "in/a_png.png", "in/a_png_2.png"],
        ["in/a.png", "in/a_1.png", "in/a_2.png", "in/a_1_1.png", "in/a_mean.png", "in/a_sheet.jpg"],
        ["in/é.png", "in/e\u0301.png"],
    ],
)
@pytest.mark.parametrize("wanted", [{}, {"samples": 2, "mean": True, "uncertainty": True, "mask": True, "sheet": True}])
def test_no_two_outputs_are_ever_the_same_file(here, names, wanted):
    files(*names)
    found = [path for kinds in outputs(["in"], **wanted).values() for path in kinds.values()]
    assert len(found) == len(names) * len(Wanted(**wanted).names("", ""))
    assert len({path.casefold() for path in found}) == len(found)


def test_what_does_not_collide_keeps_its_name(here):
    files("in/a.jpg", "in/a.png", "in/b.png")
    assert {kinds["1"] for kinds in outputs(["in"]).values()} == {"out/a.jpg", "out/a.png", "out/b.png"}
    kinds = outputs(["in"], sheet=True)
    assert kinds["in/b.png"] == {"1": "out/b.png", "sheet": "out/b_sheet.png"}
    assert kinds["in/a.jpg"] == {"1": "out/a_jpg.jpg", "sheet": "out/a_jpg_sheet.png"}


def test_several_photos_and_folders_at_once(here):
    files("x/a.jpg", "y/a.jpg", "y/b.jpg")
    found = outputs(["x/a.jpg", "y"])
    assert list(found) == ["x/a.jpg", "y/a.jpg", "y/b.jpg"]
    assert len({kinds["1"] for kinds in found.values()}) == 3
    assert found["y/b.jpg"]["1"] == "out/b.jpg"


def test_names_that_collide_stay_a_photos_own_whatever_else_is_there(here):
    files("x/a.jpg", "y/a.jpg")
    few = outputs(["x", "y"])
    files("x/0.jpg", "z/a.jpg")
    many = outputs(["z", "x", "y"])
    assert few.items() <= many.items()
    assert len({kinds["1"] for kinds in many.values()}) == 4


def test_a_photo_named_twice_is_filled_once(here):
    files("in/a.jpg", "in/b.jpg")
    assert outputs(["in/a.jpg", "in"]) == {"in/a.jpg": {"1": "out/a.jpg"}, "in/b.jpg": {"1": "out/b.jpg"}}


def test_photos_may_lie_below_where_they_go(here):
    files("trip/day1/a.jpg", "trip/day2/b.jpg", "party/c.jpg")
    assert list(outputs(["trip/day1", "party"], "trip")) == ["trip/day1/a.jpg", "party/c.jpg"]
    assert list(outputs(["trip/day2"], ".")) == ["trip/day2/b.jpg"]


def test_seeds_go_by_names(here):
    files("in/a.jpg", "in/sub/b.jpg")
    few = {job.path.name: job.seed for job in plan([Path("in")], "out", 3, Wanted())}
    files("in/0.jpg", "in/c.jpg")
    many = {job.path.name: job.seed for job in plan([Path("in")], "out", 3, Wanted())}
    assert few.items() <= many.items()
    assert len(set(many.values())) == 4
    assert few["b.jpg"] == seed_of(3, PurePath("sub/b.jpg")) != seed_of(4, PurePath("sub/b.jpg"))


def test_no_photo_is_ever_replaced(here):
    files("in/a.jpg", "in/sub/b.jpg", "in/sub/a.jpg")
    for photos, out in ((["in/a.jpg"], "in"), (["in/a.jpg"], "in/a.jpg")):
        with pytest.raises(ImageError, match="would replace a photo"):
            outputs(photos, out)
    with pytest.raises(ImageError, match="where the photos or their masks are"):
        outputs(["in"], "in/.", samples=2)
    Path("link.jpg").symlink_to("in/a.jpg")
    with pytest.raises(ImageError, match="would replace"):
        outputs(["in/a.jpg"], "link.jpg")
    assert outputs(["in/a.jpg"], "in", samples=2)  # other names, beside it


def test_earlier_results_below_the_photos_are_no_photos(here):
    files("in/a.jpg", "in/filled/a.jpg", "in/filled2/b.jpg")
    assert list(outputs(["in"], "in/filled")) == ["in/a.jpg", "in/filled2/b.jpg"]
    assert list(outputs(["."], "in/filled")) == ["in/a.jpg", "in/filled2/b.jpg"]


def test_masks_among_the_photos_are_no_photos_and_are_never_replaced(here):
    files("in/a.jpg", "in/masks/a.png", "in/m.png", "in/x/a.jpg")

    def planned(photos, out, *masks):
        return [str(job.path) for job in plan([Path(photo) for photo in photos], out, 0, Wanted(), masks)]

    assert planned(["in"], "out", "in/masks", "in/m.png", "left", "color:#ff00ff") == ["in/a.jpg", "in/x/a.jpg"]
    assert planned(["in/x"], "out", "in/x") == ["in/x/a.jpg"]  # a folder may hold both, but then they share a name
    for photos, out in ((["in/a.jpg"], "in/masks"), (["in/a.jpg"], "in/m.png")):
        with pytest.raises(ImageError, match="mask"):
            planned(photos, out, "in/masks", "in/m.png")


def test_a_circle_of_links_ends_and_an_empty_folder_is_named(here):
    files("in/a.jpg")
    Path("in/again").symlink_to("..")
    Path("in/self").symlink_to("self")
    assert {path.rsplit("/")[-1] for path in outputs(["in"])} == {"a.jpg"}
    Path("empty").mkdir()
    with pytest.raises(ImageError, match="no image file in empty"):
        outputs(["empty"])
