"""Images into the media store, and back out as conversations with decoded images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

from lifelong.models.encode import Conversation, Message
from lifelong.samples import Image as SampleImage
from stores.media import Media, MediaWriter
from stores.pool import Pool

if TYPE_CHECKING:
    from PIL.Image import Image


class HasContent(Protocol):
    """Messages with the hashes of their images, in order."""

    @property
    def messages(self) -> Sequence[Message]: ...
    @property
    def images(self) -> Sequence[str]: ...


class CarriedLoader:
    """Makes conversations of rows that are at hand. read: gives the encoded bytes of an image by its sha256."""

    def __init__(self, read: Callable[[str], bytes]) -> None:
        self._read = read

    def conversation(self, item: HasContent) -> Conversation:
        """Raises: DamagedError if an image is missing or altered."""
        return Conversation(item.messages, [self._image(sha256) for sha256 in item.images])

    def _image(self, sha256: str) -> Image:
        from lifelong.formats.images import to_rgb

        return to_rgb(self._read(sha256))


class ConversationLoader(CarriedLoader):
    """Reads conversations of a run by ordinal."""

    def __init__(self, pool: Pool, media: Media) -> None:
        super().__init__(media.read)
        self.pool = pool

    def conversations(self, ordinals: Iterable[int]) -> Iterator[Conversation]:
        """The pool's conversations in the order asked."""
        return (self.conversation(row) for row in self.pool.rows(ordinals))


def keep_image(image: SampleImage, writer: MediaWriter, reference: bool) -> None:
    """Put an image in the media store, or note where it lies; one inside a tar or Parquet file is copied."""
    if reference and image.path is not None:
        writer.reference(image.path, image.sha256, image.width, image.height)
    else:
        writer.add(image.read(), image.sha256, image.width, image.height)
