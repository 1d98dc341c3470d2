"""CLIP and SigLIP of transformers: an image tower and a text tower trained to agree."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from lifelong.encoders.base import ImageTextEncoder, default_device, fingerprint, vocabulary_hash
from lifelong.errors import InputError
from lifelong.models.load import quiet

if TYPE_CHECKING:
    from PIL.Image import Image

_PREPROCESSING = (
    *("do_resize", "size", "resample", "do_center_crop", "crop_size", "do_pad"),
    *("do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std"),
)


class DualEncoder(ImageTextEncoder):
    """A CLIP or SigLIP from a local folder or the hub, in single precision.

    Images always go through Pillow, also where torchvision is installed, which resizes a little otherwise.
    Texts are cut to what the text tower reads (CLIP 77 tokens, SigLIP 64). SigLIP was trained on texts padded
    to full length and without a mask, so it is given them so.
    """

    def __init__(self, kind: str, path: str, batch_size: int) -> None:
        """Raises: InputError if there is no model of that kind at `path`."""
        super().__init__(batch_size)
        self._model, self._images, self._tokenizer = _load(kind, path)
        self._device = default_device()
        self._model.to(self._device)
        config = self._model.config
        self._longest = int(config.text_config.max_position_embeddings)
        self._masked = kind == "clip"
        # The width that both towers end in: CLIP projects to it, SigLIP's towers have it from the start.
        self.dimension = int(getattr(config, "projection_dim", None) or config.vision_config.hidden_size)
        options = {
            "images": {name: getattr(self._images, name, None) for name in _PREPROCESSING},
            "tokens": vocabulary_hash(self._tokenizer),
            "longest": self._longest,
        }
        self.name = f"{kind}-{fingerprint(self._model.state_dict(), options)}"

    def embed_images(self, images: Sequence[Image]) -> np.ndarray:
        pixels = self._images(images=list(images), return_tensors="pt")["pixel_values"]
        return _pooled(self._model.get_image_features(pixel_values=pixels.to(self._device)))

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        tokens = self._tokenizer(
            list(texts),
            padding=True if self._masked else "max_length",
            padding_side="right",
            truncation=True,
            max_length=self._longest,
            return_tensors="pt",
        ).to(self._device)
        mask = {"attention_mask": tokens["attention_mask"]} if self._masked else {}
        return _pooled(self._model.get_text_features(input_ids=tokens["input_ids"], **mask))


def _pooled(output: Any) -> np.ndarray:
    return output.pooler_output.float().cpu().numpy()


def _load(kind: str, path: str) -> tuple[Any, Any, Any]:
    """The model, its image processor and its tokenizer."""
    from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoTokenizer

    try:
        with quiet():
            found = AutoConfig.from_pretrained(path).model_type
            if found != kind:
                raise InputError(
                    f"encoder.path {path!r} holds a {found}, not a {kind}: set encoder.path or encoder.kind"
                )
            model = AutoModel.from_pretrained(path, dtype=torch.float32).eval()
            images = AutoImageProcessor.from_pretrained(path, backend="pil")
            return model, images, AutoTokenizer.from_pretrained(path)
    except (OSError, ValueError, ImportError, KeyError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise InputError(
            f"encoder.path {path!r} cannot be loaded as a {kind}: {reason}. Give a local folder or a hub name "
            "that can be reached, or take encoder.kind conse, which pip installs"
        ) from error
