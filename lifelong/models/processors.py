"""Load the processor of any vision-language model, also where torchvision is not installed."""

from __future__ import annotations

from typing import Any


def image_only(processor_class: type) -> type:
    """The same processor class without its video part.

    Processors of video-capable families (Qwen-VL, SmolVLM) insist on a video processor, which needs
    torchvision; images do not.
    """
    from transformers import ProcessorMixin

    # Last in most classes, first in LLaVA-NeXT-Video's.
    parts = processor_class.get_attributes()
    place = parts.index("video_processor")

    class WithoutVideo(ProcessorMixin):  # type: ignore[misc]
        def __init__(self, *args: Any, video_processor: None = None, **kwargs: Any) -> None:
            # Gemma 4 names it, the others give it by its place.
            if len(args) == len(parts):
                args = args[:place] + args[place + 1 :]
            super().__init__(*args, **kwargs)

    class ImageOnly(processor_class, WithoutVideo):  # type: ignore[misc, valid-type]
        video_processor = None

        @classmethod
        def get_attributes(cls) -> list[str]:
            return [name for name in super().get_attributes() if name != "video_processor"]

        def apply_chat_template(self, *args: Any, **kwargs: Any) -> Any:
            # SmolVLM's own asks its video processor for defaults first.
            return ProcessorMixin.apply_chat_template(self, *args, **kwargs)

        @classmethod
        def _get_arguments_from_pretrained(cls, *args: Any, **kwargs: Any) -> list[Any]:
            found = super()._get_arguments_from_pretrained(*args, **kwargs)
            return [*found[:place], None, *found[place:]]

    # The saved configuration must name the real class, so that any other library can load it.
    ImageOnly.__name__ = ImageOnly.__qualname__ = processor_class.__name__
    return ImageOnly


def load_processor(name_or_path: str, **options: Any) -> Any:
    """`AutoProcessor.from_pretrained`, without the video part where torchvision or the video part itself is missing.

    A processor that was saved on a machine without torchvision has none, and loads on a machine that has it, too.

    Raises:
        OSError, ValueError: as `AutoProcessor` does, when there is no processor at `name_or_path`.
        ImportError: the processor cannot do without its video part.
    """
    import transformers
    from transformers import AutoConfig, AutoProcessor
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES
    from transformers.utils import is_torchvision_available

    config = AutoConfig.from_pretrained(name_or_path, **options)
    processor_class = getattr(transformers, PROCESSOR_MAPPING_NAMES.get(config.model_type, ""), None)
    if processor_class is None or "video_processor" not in processor_class.get_attributes():
        return AutoProcessor.from_pretrained(name_or_path, **options)
    if is_torchvision_available():
        try:
            return AutoProcessor.from_pretrained(name_or_path, **options)
        except (OSError, ValueError) as error:
            if "video" not in str(error):
                raise
    try:
        return image_only(processor_class).from_pretrained(name_or_path, **options)
    except AttributeError as error:
        raise ImportError(
            f"{processor_class.__name__} reads its settings from its video part, which needs torchvision ({error}); "
            "install torchvision"
        ) from error
