"""EfficientNet-Lite0 as the frozen vision tower of a Hugging Face vision-language model.

Importing this module registers the configuration and the model with `AutoConfig` and `AutoModel`, so that
`AutoModelForImageTextToText.from_pretrained` loads a LLaVA folder whose `vision_config.model_type` is
`efficientnet_lite`. At 128 px the tower gives 4 × 4 = 16 image tokens of 1280 numbers.

A frozen tower gives the same features for the same pixels at every pass, epoch and timestep. They are
computed once per image and process and kept in memory, also for a model that is loaded again later.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import ClassVar

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

CHUNK = 16
"""Images a forward of a frozen tower on a GPU, always: the last is filled up, so that all are computed alike."""
CACHED_IMAGES = 20_000  # 16 tokens × 1280 × 4 bytes = 80 KiB an image: 1.6 GB when full


class EfficientNetLiteConfig(PreTrainedConfig):
    """Shape of the tower: pixels a side, pixels a token's side, numbers a token."""

    model_type = "efficientnet_lite"

    variant: str = "efficientnet-lite0"
    image_size: int = 128
    patch_size: int = 32
    hidden_size: int = 1280


class FeatureCache:
    """At most `capacity` features by content; the image that was not used for longest goes first."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._features: OrderedDict[bytes, Tensor] = OrderedDict()

    def __len__(self) -> int:
        return len(self._features)

    def clear(self) -> None:
        self._features.clear()

    def get(self, key: bytes) -> Tensor | None:
        features = self._features.get(key)
        if features is not None:
            self._features.move_to_end(key)
        return features

    def put(self, key: bytes, features: Tensor) -> None:
        self._features[key] = features
        while len(self._features) > self.capacity:
            self._features.popitem(last=False)


FEATURES = FeatureCache(CACHED_IMAGES)


def content_digest(tensors: Iterable[Tensor]) -> bytes:
    """128-bit hash of tensors' values, shapes, types and devices."""
    digest = hashlib.blake2b(digest_size=16)
    for tensor in tensors:
        digest.update(f"{tuple(tensor.shape)} {tensor.dtype} {tensor.device};".encode())
        values = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(values.view(torch.uint8).numpy().data)
    return digest.digest()


class EfficientNetLiteModel(PreTrainedModel):
    """Images (n, 3, side, side) → last_hidden_state (n, (side / 32)², 1280), also the one hidden state.

    A tower whose weights are frozen, or that is evaluated without gradient, runs image by image in
    evaluation mode (on a GPU in batches of one size): an image's features do not depend on its batch mates, and
    each is computed once.
    A tower that is trained runs as any other module, and nothing is kept.
    """

    config_class = EfficientNetLiteConfig
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    # It has no attention, so any implementation that the whole model is loaded with suits it.
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _no_split_modules: ClassVar[list[str]] = ["MBConvBlock"]

    def __init__(self, config: EfficientNetLiteConfig) -> None:
        # Here, so that loading any other model does not need this package.
        from efficientnet_lite_pytorch import EfficientNet

        super().__init__(config)
        self.network = EfficientNet.from_name(config.variant)
        self.network._fc = nn.Identity()  # the ImageNet classifier is not part of a tower
        self._weights: tuple[tuple[object, ...], bytes] = ((), b"")
        self.post_init()

    @property
    def is_frozen(self) -> bool:
        return not any(weight.requires_grad for weight in self.network.parameters())

    def train(self, mode: bool = True) -> EfficientNetLiteModel:
        """Training mode only for a tower that is trained: a frozen one keeps its batch statistics."""
        return super().train(mode and not self.is_frozen)

    def forward(self, pixel_values: Tensor, **_: object) -> BaseModelOutput:
        weight = self.network._conv_stem.weight
        pixel_values = pixel_values.to(device=weight.device, dtype=weight.dtype)
        evaluated = not self.training and not torch.is_grad_enabled()
        if (self.is_frozen or evaluated) and not pixel_values.requires_grad:
            tokens = self._frozen_tokens(pixel_values)
        else:
            tokens = self._tokens(pixel_values)
        return BaseModelOutput(last_hidden_state=tokens, hidden_states=(tokens,))

    def _tokens(self, pixel_values: Tensor) -> Tensor:
        return self.network.extract_features(pixel_values).flatten(2).transpose(1, 2).contiguous()

    @torch.no_grad()
    def _frozen_tokens(self, pixel_values: Tensor) -> Tensor:
        self.network.eval()
        weights = self._weights_digest()
        keys = [weights + content_digest([image]) for image in pixel_values.cpu()]
        rows = {key: FEATURES.get(key) for key in keys}
        wanted = {key: image for key, image in zip(keys, pixel_values, strict=True) if rows[key] is None}
        for key, features in self._computed(wanted):
            FEATURES.put(key, features)
            rows[key] = features
        return torch.stack([rows[key] for key in keys])

    def _computed(self, images: dict[bytes, Tensor]) -> Iterator[tuple[bytes, Tensor]]:
        """The tokens of images, alike whichever others are computed beside them."""
        keys = list(images)
        size = CHUNK if images and images[keys[0]].is_cuda else 1
        for start in range(0, len(keys), size):
            some = keys[start : start + size]
            filled = [images[key] for key in some] + [images[some[0]]] * (size - len(some))
            tokens = self._tokens(torch.stack(filled))
            # Copies, so that what is kept does not hold the whole batch.
            yield from ((key, row.clone()) for key, row in zip(some, tokens, strict=False))

    def _weights_digest(self) -> bytes:
        """Hash of the weights, computed again only after they were written to or moved."""
        tensors = [*self.network.parameters(), *self.network.buffers()]
        state = tuple((tensor.data_ptr(), tensor._version) for tensor in tensors)
        if self._weights[0] != state:
            self._weights = (state, content_digest(tensors))
        return self._weights[1]


AutoConfig.register(EfficientNetLiteConfig.model_type, EfficientNetLiteConfig, exist_ok=True)
AutoModel.register(EfficientNetLiteConfig, EfficientNetLiteModel, exist_ok=True)
