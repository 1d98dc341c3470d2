"""Opening an image that nobody vouches for: limits before decoding, a full decode, one path to RGB."""

from __future__ import annotations

import base64
import hashlib
import io
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image as PillowImage
from PIL import ImageOps, UnidentifiedImageError

from lifelong.formats.faults import DEFAULT_LIMITS, LFS_POINTER, Limits, RowError
from lifelong.formats.jpeg import scans
from lifelong.formats.unread import BASE64
from lifelong.samples import Image

SUFFIXES = {"PNG": ".png", "JPEG": ".jpg", "WEBP": ".webp", "GIF": ".gif", "BMP": ".bmp", "TIFF": ".tif"}
_ABSOLUTE = re.compile(r"[/\\]|[A-Za-z]:[/\\]")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://|data:")
_HUB_REPOSITORY = re.compile(r"(datasets|models|spaces)--.+")
_BASE64 = re.compile(BASE64 + r"(?:(?<=,)|[A-Za-z0-9+/\s]{60})")
_FILE_URL = "file://"
_REMEMBERED = 65_536
_State = tuple[int, int, int, int, int]
T = TypeVar("T")
MAX_NAME_CHARS = 4096
MAX_SCANS = 50
"""Of a JPEG. Encoders write about ten; a few bytes more for each scan would hold the decoder for hours."""


def to_rgb(data: bytes, limits: Limits = DEFAULT_LIMITS) -> PillowImage.Image:
    """Decode an encoded image to 8-bit RGB, upright; the one conversion used by readers and models alike.

    EXIF orientation is applied; 16-bit grey is scaled to 8 bits; transparent pixels are laid over white;
    CMYK, palette and bilevel images are converted as Pillow does.

    Raises: RowError (without the image's name) if the image is animated, too small, too large, cut off or not
    an image that can be read.
    """
    return _decode(data, limits)[0]


def _decode(data: bytes, limits: Limits) -> tuple[PillowImage.Image, str]:
    """Return the image as RGB and the suffix of its encoding."""
    if not data:
        raise RowError("is empty (0 bytes)", "fetch the image again, or drop the row")
    if len(data) > limits.max_image_bytes:
        raise _too_many_bytes(len(data), limits)
    try:
        with PillowImage.open(io.BytesIO(data), formats=list(SUFFIXES)) as image:
            encoding = "JPEG" if image.format == "MPO" else str(image.format)
            _check_header(image, limits)
            if encoding == "JPEG" and scans(data, MAX_SCANS) > MAX_SCANS:
                raise RowError(f"has more than {MAX_SCANS} scans", "save it as a plain JPEG, or drop the row")
            image.load()
            return _convert(image), SUFFIXES[encoding]
    except RowError:
        raise
    except UnidentifiedImageError:
        if data.startswith(LFS_POINTER):
            raise RowError("is a Git LFS pointer, not the image itself", "fetch it: git lfs pull") from None
        names = ", ".join(SUFFIXES)
        raise RowError("is not an image", f"supply one of {names}, or drop the row") from None
    except PillowImage.DecompressionBombError as error:
        raise RowError(f"is too large: {error}", "scale the image down, or drop the row") from None
    except Exception as error:  # decoders raise anything on damaged bytes, e.g. struct.error
        reason = f"cannot be decoded: {str(error) or type(error).__name__}"
        raise RowError(reason, "fetch the image again, or drop the row") from None


def _check_header(image: PillowImage.Image, limits: Limits) -> None:
    """Refuse by what the header says, before any pixel is decoded."""
    width, height = image.size
    if width * height > limits.max_pixels:
        reason = f"is too large: {width}x{height} pixels, the limit is {limits.max_pixels:,} in all"
        raise RowError(reason, "scale the image down, or drop the row")
    if min(width, height) < limits.min_side:
        reason = f"is too small: {width}x{height} pixels, each side needs {limits.min_side} or more"
        raise RowError(reason, "supply the real image, or drop the row")
    # MPO is what phones write: a JPEG with a preview behind it, not an animation.
    if getattr(image, "is_animated", False) and image.format != "MPO":
        raise RowError("is animated (several frames)", "save the frame that is meant as a still image")


def _convert(image: PillowImage.Image) -> PillowImage.Image:
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode.startswith("I"):
        grey = np.clip(np.asarray(image), 0, 65_535).astype(np.uint32)
        return PillowImage.fromarray(((grey + 128) // 257).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise RowError("has floating-point pixels of unknown range", "save it with 8 bits a channel")
    if image.has_transparency_data:
        upper = image.convert("RGBA")
        canvas = PillowImage.new("RGBA", upper.size, "white")
        return PillowImage.alpha_composite(canvas, upper).convert("RGB")
    return image.convert("RGB")


def _too_many_bytes(size: int, limits: Limits) -> RowError:
    reason = f"is too large: {size:,} bytes, the limit is {limits.max_image_bytes:,}"
    return RowError(reason, "encode the image in fewer bytes, or drop the row")


class ImageOpener:
    """Turns the image references of rows into checked `Image` values.

    A name is looked up under `root`; if no root was given by the user, under the dataset file's folder and
    then under `images/` in that folder. After symbolic links are followed it must still lie under that root, or in the
    blobs of the repository, where the root is in a snapshot of the Hugging Face cache.
    Images that were decoded once are remembered by content, so that one used by many rows is decoded once; and by
    file, so that it is read once for as long as the file has not been written to.
    """

    def __init__(self, file: Path, images: Path | None, limits: Limits) -> None:
        self.limits = limits
        roots = [images] if images is not None else [file.parent, file.parent / "images"]
        self._roots = [Path(os.path.realpath(root)) for root in roots]
        self._label = _label(file.parent, roots[0])
        self._known: dict[str, tuple[str, int, int]] = {}
        self._opened: dict[str, tuple[str, _State, Image]] = {}

    def open(self, reference: Any, members: Mapping[str, bytes] | None = None) -> Image:
        """Check one image: a name, bytes, base64 (plain, or a data: URL), or the {"bytes", "path"} of `datasets`.

        members: the images that came in the same archive, by name; with it a name never means a file on disk.
        Raises: RowError that names the image.
        """
        if isinstance(reference, Mapping):
            data = reference.get("bytes")
            reference = data if data is not None else reference.get("path")
        if isinstance(reference, str) and _BASE64.match(reference):
            reference = _decoded(reference)
        if isinstance(reference, bytes):
            return self._checked(reference, None, "an embedded image")
        if not isinstance(reference, str) or not reference or "\0" in reference:
            reason = f"an image is given as {str(reference)[:80]!r}, which is no file name"
            raise RowError(reason, "give each image as a path relative to the image root")
        if members is not None:
            return self._checked(_member(reference, members), None, f'image "{reference}"')
        opened = self._opened.get(reference)
        if opened is not None and _state(opened[0]) == opened[1]:
            return opened[2]
        path = self._find(reference)
        state = _state(path)  # before the bytes: what is written after it is seen the next time
        image = self._checked(self._bytes_of(path, reference), path, f'image "{reference}"')
        if state is not None:
            _remember(self._opened, reference, (str(path), state, image))
        return image

    def _bytes_of(self, path: Path, name: str) -> bytes:
        try:
            size = path.stat().st_size
            if size <= self.limits.max_image_bytes:
                return path.read_bytes()
        except OSError as error:
            reason = f'image "{name}" cannot be read: {error.strerror}'
            raise RowError(reason, "mend the file or its permissions") from None
        raise _named(_too_many_bytes(size, self.limits), f'image "{name}"')

    def _checked(self, data: bytes, path: Path | None, name: str) -> Image:
        digest = hashlib.sha256(data).hexdigest()
        known = self._known.get(digest)
        if known is None:
            try:
                image, suffix = _decode(data, self.limits)
            except RowError as fault:
                raise _named(fault, name) from None
            known = (suffix, image.width, image.height)
            _remember(self._known, digest, known)
        suffix, width, height = known
        return Image(digest, suffix, path, data if path is None else None, width, height)

    def _find(self, name: str) -> Path:
        """Return the regular file that `name` means, inside one of the roots."""
        told, name = name, name.removeprefix(_FILE_URL)
        if len(name) > MAX_NAME_CHARS:  # no file has such a name, and to look for it takes its square
            reason = f'image "{name[:80]}…" not found: a name of {len(name):,} characters'
            raise RowError(reason, "give a path relative to the image root")
        if _SCHEME.match(name):
            reason = f'image "{name[:80]}" is a URL; nothing is downloaded'
            raise RowError(reason, "download the image first and give its path relative to the image root")
        if _ABSOLUTE.match(name):
            reason = f'image "{told}" is an absolute path'
            raise RowError(reason, "give a path relative to the image root (--images DIR)")
        if ".." in re.split(r"[/\\]", name):
            reason = f'image "{name}" leaves the image root through ".."'
            raise RowError(reason, "put the image under the root, or pass --images with a folder above it")
        for root in self._roots:
            path = Path(os.path.realpath(root / name))
            try:
                mode = path.stat().st_mode
            except (OSError, ValueError):
                continue
            if not path.is_relative_to(root) and not in_blobs(path, root):
                reason = f'image "{name}" is a symbolic link that leaves {self._label}'
                raise RowError(reason, "pass --images with the folder of the real files, or copy them")
            if not stat.S_ISREG(mode):
                raise RowError(f'image "{name}" is not a file', "give the path of an image file")
            return path
        reason = f'image "{name}" not found under {self._label}'
        raise RowError(reason, "put the file there or pass --images DIR")


def in_blobs(path: Path, root: Path) -> bool:
    """Whether a path is among the blobs of the hub's repository in whose snapshots `root` lies; both are resolved.

    The cache of the hub keeps owner--name/snapshots/revision/file as links to owner--name/blobs/hash.
    """
    for folder in (root, *root.parents):
        if folder.name == "snapshots" and _HUB_REPOSITORY.fullmatch(folder.parent.name):
            return path.is_relative_to(folder.parent / "blobs")
    return False


def _state(path: str | Path) -> _State | None:
    """What changes when a file is replaced or written to; None if it is gone."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _remember(known: dict[str, T], key: str, value: T) -> None:
    if len(known) >= _REMEMBERED:
        known.pop(next(iter(known)))
    known[key] = value


def _decoded(text: str) -> bytes:
    """The bytes of base64, with or without the beginning of a data: URL. Raises: RowError if it is not whole."""
    data = text.partition(",")[2] if text.startswith("data:") else text
    try:
        return base64.b64decode("".join(data.split()), validate=True)
    except ValueError:
        reason = f'an image that is written as text ("{text[:40]}…") holds no whole base64 data'
        raise RowError(reason, "encode the image again") from None


def _member(name: str, members: Mapping[str, bytes]) -> bytes:
    """Find the archive member that a row means by `name`: by its full name, or the end of it from a folder on."""
    for member, data in members.items():
        if f"/{member}".endswith(f"/{name}"):
            return data
    listed = ", ".join(members) or "none"
    reason = f'image "{name}" is not in the archive beside its row (images there: {listed})'
    raise RowError(reason, "name the members of a sample alike up to the first dot, as WebDataset asks")


def _named(fault: RowError, name: str) -> RowError:
    return RowError(f"{name} {fault.reason}", fault.fix)


def _label(folder: Path, root: Path) -> str:
    """How a message names the image root: relative to the dataset where it lies inside it."""
    inside = os.path.relpath(root, folder)
    if inside == ".":
        return "the dataset's folder"
    return f"{root if inside.startswith('..') else inside}/"
