"""Frozen image-text encoders: where a sample lies in a space that images and texts share.

An encoder sees a sample once in its life; its features are kept by content (`lifelong.signals.frozen`).
"""

from __future__ import annotations

from lifelong.config import EncoderConfig
from lifelong.encoders.base import ImageTextEncoder
from lifelong.errors import UsageError

__all__ = ["ImageTextEncoder", "encoder"]


def encoder(config: EncoderConfig) -> ImageTextEncoder:
    """The encoder that the configuration names, loaded and ready.

    Raises:
        UsageError: none is configured, or its packages are not installed.
        InputError: encoder.path is no such model.
    """
    if config.kind == "none":
        raise UsageError("no encoder is configured: set encoder.kind to clip, siglip or conse")
    if config.kind == "conse":
        from lifelong.encoders.conse import ConSE

        return ConSE(config.batch_size)
    from lifelong.encoders.dual import DualEncoder

    return DualEncoder(config.kind, config.path, config.batch_size)
