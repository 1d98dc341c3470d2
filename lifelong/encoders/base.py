"""What every encoder does: one feature of a sample's images, one of its questions."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from policies.arrays import unit_rows

if TYPE_CHECKING:
    from PIL.Image import Image

    from lifelong.models.encode import Conversation


REMEMBERED = 20_000
"""Embeddings that an encoder keeps in memory: those of the images and texts that it met last."""


class ImageTextEncoder(ABC):
    """Embeds images and texts in one space of `dimension` numbers; a `lifelong.signals.frozen.Producer`."""

    signals: ClassVar[tuple[str, ...]] = ("image_feature", "text_feature")

    name: str
    """Kind, and a hash of the weights and of everything else that an embedding depends on."""
    batch_size: int
    """Images or texts a forward; no embedding depends on it."""
    dimension: int

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size
        self._lately: dict[Any, np.ndarray] = {}

    @abstractmethod
    def embed_images(self, images: Sequence[Image]) -> np.ndarray:
        """(m, dimension) float32 of at most batch_size RGB images."""

    @abstractmethod
    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """(m, dimension) float32 of at most batch_size texts; what is longer than the encoder reads is cut."""

    def __call__(self, conversations: Sequence[Conversation]) -> dict[str, np.ndarray]:
        """image_feature, text_feature: (b, dimension) float32, rows of length 1.

        The image feature is the mean of the L2-normalised embeddings of a conversation's images, normalised
        again; the text feature that of its human turns: answers are ignored. A conversation without images,
        or without a word of the human, has zeros. Source: OFA (arXiv 2605.26761), features.
        """
        images = [[(_digest(image), image) for image in each.images] for each in conversations]
        turns = [human_turns(each) for each in conversations]
        with torch.inference_mode(), _exact():
            of_images = self._embedded(self.embed_images, dict(pair for some in images for pair in some))
            of_texts = self._embedded(self.embed_texts, {text: text for texts in turns for text in texts})
        return {
            "image_feature": self._means([[of_images[key] for key, _ in some] for some in images]),
            "text_feature": self._means([[of_texts[text] for text in texts] for texts in turns]),
        }

    def _embedded(
        self, embed: Callable[[Sequence[Any]], np.ndarray], items: Mapping[Any, Any]
    ) -> dict[Any, np.ndarray]:
        """The embedding of each item by its key: an image or a question that many samples share is embedded once."""
        found = {key: self._lately[key] for key in items if key in self._lately}
        new = [key for key in items if key not in found]
        for start in range(0, len(new), self.batch_size):
            keys = new[start : start + self.batch_size]
            found.update(zip(keys, embed([items[key] for key in keys]), strict=True))
        for key, embedding in found.items():
            self._lately.pop(key, None)
            self._lately[key] = embedding
        while len(self._lately) > REMEMBERED:
            del self._lately[next(iter(self._lately))]
        return found

    def _means(self, embeddings: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
        rows = [
            np.empty((0, self.dimension), np.float32),
            *(row[None] for some in embeddings for row in some),
        ]
        return mean_direction(np.concatenate(rows), [len(some) for some in embeddings])


def _digest(image: Image) -> bytes:
    """What tells one picture from another: a hash of its size and its pixels."""
    return hashlib.sha256(f"{image.mode} {image.size};".encode() + image.tobytes()).digest()


def human_turns(conversation: Conversation) -> list[str]:
    """The words of each human turn, images left out; a turn that has none is left out."""
    turns = (
        " ".join(part["text"] for part in message["content"] if part["type"] == "text").strip()
        for message in conversation.messages
        if message["role"] == "user"
    )
    return [turn for turn in turns if turn]


def mean_direction(embeddings: np.ndarray, counts: Sequence[int]) -> np.ndarray:
    """(b, d): the mean of the unit vectors of each of b runs of `counts` rows, as a unit vector; zeros for 0 rows."""
    sums = np.zeros((len(counts), embeddings.shape[1]), dtype=np.float32)
    np.add.at(sums, np.repeat(np.arange(len(counts)), counts), unit_rows(embeddings))
    return unit_rows(sums)


def fingerprint(weights: Mapping[str, torch.Tensor], options: Mapping[str, Any]) -> str:
    """16 hex characters that stand for the values of some weights and for whatever else decides an output."""
    digest = hashlib.sha256(json.dumps(options, sort_keys=True, ensure_ascii=False, default=_plain).encode())
    for name, tensor in sorted(weights.items()):
        values = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {tuple(values.shape)} {values.dtype};".encode())
        digest.update(values.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def vocabulary_hash(tokenizer: Any) -> str:
    """SHA-256 of a tokenizer's tokens and their numbers."""
    return hashlib.sha256(json.dumps(sorted(tokenizer.get_vocab().items())).encode()).hexdigest()


def default_device() -> torch.device:
    """cuda where there is one, else cpu."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _plain(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else str(value)


@contextmanager
def _exact() -> Iterator[None]:
    """Full single precision on GPUs too: TF32 rounds by the batch's shape, and a row must not."""
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
        yield
