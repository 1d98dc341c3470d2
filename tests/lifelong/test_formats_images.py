"""Opening images: what is converted, what is refused, and what is never touched."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as PillowImage

from lifelong.formats import Limits, to_rgb
from lifelong.formats.faults import RowError
from lifelong.formats.images import ImageOpener
from tests.streams import stream_path


def encode(image: PillowImage.Image, encoding: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, encoding, **options)
    return buffer.getvalue()


def gradient(width: int = 16, height: int = 8) -> PillowImage.Image:
    return PillowImage.fromarray(np.arange(width * height * 3, dtype=np.uint8).reshape(height, width, 3))


def without_palette() -> bytes:
    """A palette PNG that has lost its palette."""
    data = encode(gradient().convert("P"))
    start = data.index(b"PLTE") - 4
    return data[:start] + data[start + 12 + int.from_bytes(data[start : start + 4], "big") :]


def test_rgb_is_unchanged() -> None:
    assert np.array_equal(np.asarray(to_rgb(encode(gradient()))), np.asarray(gradient()))


def test_sixteen_bit_grey_keeps_its_scale() -> None:
    values = np.array([[0, 128, 257, 32_768, 65_535]] * 2, dtype=np.uint16)
    grey = np.asarray(to_rgb(encode(PillowImage.fromarray(values))))
    assert grey[0, :, 0].tolist() == [0, 0, 1, 128, 255]
    assert (grey == grey[..., :1]).all()


def test_exif_orientation_turns_the_image_upright() -> None:
    exif = PillowImage.Exif()
    exif[0x0112] = 6  # stored lying on its side: show it turned by 90 degrees clockwise
    upright = to_rgb(encode(gradient(), exif=exif))
    assert np.array_equal(np.asarray(upright), np.rot90(np.asarray(gradient()), -1))


def test_transparent_pixels_become_white() -> None:
    palette = PillowImage.new("P", (4, 4), 1)
    palette.putpalette([255, 0, 0, 0, 255, 0])
    palette.putpixel((0, 0), 0)
    rgb = to_rgb(encode(palette, transparency=1))
    assert [rgb.getpixel((0, 0)), rgb.getpixel((1, 1))] == [(255, 0, 0), (255, 255, 255)]


def test_cmyk_becomes_the_colour_it_stands_for() -> None:
    rgb = to_rgb(encode(PillowImage.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG"))
    assert np.abs(np.asarray(rgb, dtype=int) - [255, 0, 0]).max() <= 8  # JPEG is lossy


def test_a_phone_picture_with_a_preview_is_a_still_image() -> None:
    data = encode(gradient(), "MPO", save_all=True, append_images=[gradient(4, 4)])
    assert to_rgb(data).size == (16, 8)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "is empty"),
        (b"hello", "is not an image"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "a Git LFS pointer, not the image"),
        (without_palette(), "cannot be decoded: AssertionError"),
        (encode(gradient())[:-30], "cannot be decoded"),
        (encode(gradient(40, 30), "JPEG")[:-200], "cannot be decoded"),
        (encode(gradient(64, 64)), "64x64 pixels, the limit is 4,000"),
        (encode(gradient(9, 1)), "9x1 pixels, each side needs 2"),
        (encode(gradient(), "BMP") + bytes(9000), "bytes, the limit is 9,000"),
        (encode(gradient(), "WEBP", save_all=True, append_images=[gradient().rotate(180)]), "animated"),
        (encode(PillowImage.new("F", (4, 4)), "TIFF"), "floating-point"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is not an image"),
    ],
)
def test_refused_with_a_reason(data: bytes, reason: str) -> None:
    with pytest.raises(RowError) as fault:
        to_rgb(data, Limits(max_pixels=4000, max_image_bytes=9000))
    assert reason in fault.value.reason
    assert fault.value.fix


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::PIL.Image.DecompressionBombWarning")
@given(place=st.integers(0, 300), value=st.integers(0, 255), cut=st.integers(0, 300))
def test_damaged_bytes_raise_nothing_but_a_fault(place: int, value: int, cut: int) -> None:
    for encoding in ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF"):
        data = bytearray(encode(gradient(), encoding))
        data[place % len(data)] = value
        # suppress lets only the fault through: any other exception fails the test
        with contextlib.suppress(RowError):
            assert to_rgb(bytes(data[: max(1, len(data) - cut)]), Limits(max_pixels=10**6)).mode == "RGB"


@pytest.fixture
def opener(tmp_path: Path) -> ImageOpener:
    (tmp_path / "data" / "images" / "deep").mkdir(parents=True)
    for place in ("data/a.png", "data/images/b.png", "data/images/deep/c.png", "outside.png"):
        (tmp_path / place).write_bytes(encode(gradient()))
    return ImageOpener(tmp_path / "data" / "train.json", None, Limits())


@pytest.mark.parametrize("name", ["a.png", "b.png", "deep/c.png", "images/b.png", "./a.png"])
def test_names_are_found_in_the_folder_and_in_its_images(opener: ImageOpener, name: str) -> None:
    image = opener.open(name)
    assert image.path is not None
    assert image.path.name == Path(name).name
    assert (image.width, image.height, image.suffix, image.data) == (16, 8, ".png", None)
    assert image.sha256 == hashlib.sha256(encode(gradient())).hexdigest()
    assert image.read() == encode(gradient())


def test_a_given_root_is_the_only_root(tmp_path: Path, opener: ImageOpener) -> None:
    given = ImageOpener(tmp_path / "data" / "train.json", tmp_path / "data" / "images", Limits())
    assert given.open("b.png").width == 16
    with pytest.raises(RowError, match=r'"a\.png" not found under images/'):
        given.open("a.png")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("../outside.png", "leaves the image root"),
        ("images/../../outside.png", "leaves the image root"),
        ("..\\outside.png", "leaves the image root"),
        ("/etc/passwd", "absolute path"),
        ("C:\\Windows\\a.png", "absolute path"),
        ("https://example.org/a.png", "is a URL"),
        ("file:///etc/passwd", "absolute path"),
        ("file://../outside.png", "leaves the image root"),
        ("data:image/svg+xml,<svg/>", "is a URL"),
        ("data:image/png;base64,AAAA", "is not an image"),
        ("data:image/png;base64,A", "no whole base64"),
        ("iVBOR" + "A" * 70, "no whole base64"),
        ("iVBOR.png", "not found"),
        ("images", "is not a file"),
        ("pipe.png", "is not a file"),
        ("link.png", "symbolic link that leaves"),
        ("folder/outside.png", "symbolic link that leaves"),
        ("no.png", 'image "no.png" not found under the dataset\'s folder'),
        ("x" * 5000, "not found"),
        ("a\0.png", "no file name"),
        ("", "no file name"),
        (3, "no file name"),
        (None, "no file name"),
        ({"bytes": None, "path": "../outside.png"}, "leaves the image root"),
    ],
)
def test_nothing_outside_the_root_is_opened(
    tmp_path: Path, opener: ImageOpener, name: object, reason: str
) -> None:
    (tmp_path / "data" / "link.png").symlink_to(tmp_path / "outside.png")
    (tmp_path / "data" / "folder").symlink_to(tmp_path)
    os.mkfifo(tmp_path / "data" / "pipe.png")
    with pytest.raises(RowError) as fault:
        opener.open(name)
    assert reason in fault.value.reason
    assert fault.value.fix


def test_links_of_a_hub_cache_lead_to_its_blobs_and_nowhere_else(tmp_path: Path) -> None:
    repository = tmp_path / "datasets--me--ds"
    snapshot = repository / "snapshots" / "abc" / "images"
    for folder in (
        snapshot,
        repository / "blobs",
        tmp_path / "blobs",
        tmp_path / "datasets--me--other" / "blobs",
    ):
        folder.mkdir(parents=True)
    targets = ("blobs/1", "refs", "../blobs/1", "../datasets--me--other/blobs/1", "../datasets--me--ds2")
    for number, target in enumerate(targets):
        (repository / target).resolve().write_bytes(encode(gradient()))
        (snapshot / f"{number}.png").symlink_to(os.path.relpath(repository / target, snapshot))
    for images, name in ((None, "images/0.png"), (snapshot.parent, "images/0.png"), (snapshot, "0.png")):
        opener = ImageOpener(snapshot.parent / "train.json", images, Limits())
        assert opener.open(name).width == 16
    for number in range(1, len(targets)):
        with pytest.raises(RowError, match="symbolic link that leaves"):
            opener.open(f"{number}.png")
    (tmp_path / "plain" / "snapshots").mkdir(parents=True)
    (tmp_path / "plain" / "snapshots" / "a.png").symlink_to(tmp_path / "blobs" / "1")
    with pytest.raises(RowError, match="symbolic link that leaves"):
        ImageOpener(tmp_path / "plain" / "snapshots" / "rows.json", None, Limits()).open("a.png")


def test_archive_members_never_mean_files(opener: ImageOpener) -> None:
    members = {"k.0.png": encode(gradient()), "k.1.png": encode(gradient(4, 4))}
    assert opener.open("k.1.png", members).width == 4
    with pytest.raises(RowError, match="not in the archive"):
        opener.open("a.png", members)


def test_an_altered_file_is_noticed(tmp_path: Path, opener: ImageOpener) -> None:
    image = opener.open("a.png")
    (tmp_path / "data" / "a.png").write_bytes(encode(gradient(4, 4)))
    with pytest.raises(ValueError, match="has changed"):
        image.read()


def test_a_file_is_read_anew_once_it_is_written_to(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(encode(gradient()))
    opener = ImageOpener(tmp_path / "rows.json", tmp_path, Limits())
    first = opener.open("a.png")
    assert opener.open("a.png") is first
    before = path.stat()
    # Of the same length and with the old time on it, as `cp -p` or `rsync` would leave it.
    other = encode(gradient().transpose(PillowImage.Transpose.ROTATE_180))
    path.write_bytes(other + bytes(max(0, before.st_size - len(other))))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert opener.open("a.png").sha256 == hashlib.sha256(path.read_bytes()).hexdigest() != first.sha256
    path.unlink()
    with pytest.raises(RowError, match="not found"):
        opener.open("a.png")


def test_the_odd_but_fine_images_convert() -> None:
    folder = stream_path("hostile") / "images"
    for name in ("p02.jpg", "p03.png", "p04.jpg", "p05.png"):
        rgb = np.asarray(to_rgb((folder / name).read_bytes()))
        assert rgb.shape == (64, 64, 3)
        assert rgb.std() > 10  # neither black nor white
