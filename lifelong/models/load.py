"""Load a vision-language model with its processor and put the LoRA adapter on it."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from lifelong.config import LoraConfig, ModelConfig
from lifelong.errors import InputError
from lifelong.memory import first_line
from lifelong.models.encode import Encoder
from lifelong.models.processors import load_processor


@dataclass(slots=True)
class VisionLanguageModel:
    """A model with its adapter, its encoder and the parts that measuring hooks into."""

    model: Any
    """The peft model around the transformers model."""
    encoder: Encoder
    device: torch.device
    decoder_layers: list[nn.Module]
    """The language model's layers, first to last."""
    head: Any
    """hidden state → logits over the vocabulary."""
    scale: float = 1.0
    """What the model multiplies the logits of its head by."""
    last_layer: dict[str, nn.Module] = field(init=False, repr=False)
    """The modules of the last decoder layer by their name within it: walking them takes as long as some layers."""

    def __post_init__(self) -> None:
        self.last_layer = dict(self.decoder_layers[-1].named_modules())

    @property
    def vocabulary(self) -> int:
        """Number of tokens that the head scores."""
        return int(self.head.weight.shape[0])

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """(n, h) hidden states → (n, vocabulary) logits, with the scale that Granite-like models and the cap that
        Gemma-like ones put on them."""
        logits = self.head(hidden)
        if self.scale != 1.0:
            logits = logits * self.scale
        cap = getattr(self.model.config.get_text_config(), "final_logit_softcapping", None)
        return cap * torch.tanh(logits / cap) if cap else logits

    def adapted(self, layer: int) -> dict[str, Any]:
        """The LoRA linear layers of one decoder layer by their name within it, in a fixed order.

        Raises:
            InputError: the layer has none.
        """
        from peft.tuners.lora import Linear

        found = {
            name: module
            for name, module in self.decoder_layers[layer].named_modules()
            if isinstance(module, Linear)
        }
        if not found:
            raise InputError(
                f"decoder layer {layer} has no LoRA adapter to take gradients of; "
                "name a layer that lora.targets covers, or empty lora.targets"
            )
        return found

    def load_adapter(self, folder: Path) -> None:
        """Put the adapter weights (and fully trained modules) of a checkpoint folder in place.

        Raises:
            InputError: they are not those of this model's adapter: another rank, other layers.
        """
        from safetensors.torch import load_file

        self.put_adapter(
            load_file(str(folder / "adapter_model.safetensors"), device=str(self.device)), folder
        )

    def put_adapter(self, state: dict[str, torch.Tensor], folder: Path) -> None:
        """The same of weights that are at hand. folder: where they are from, for the error."""
        from peft import set_peft_model_state_dict

        try:
            result = set_peft_model_state_dict(self.model, state)
            adapter = {name for name, weight in self.model.named_parameters() if weight.requires_grad}
            absent = sorted(adapter.intersection(result.missing_keys))
            fault = f"it has no {absent[0]}" if absent else ""
            if result.unexpected_keys:
                fault = f"this model has no place for {result.unexpected_keys[0]}"
        except RuntimeError as error:
            fault = str(error).splitlines()[-1].strip()
        if fault:
            raise InputError(
                f"{folder} is not an adapter of this model: {fault}; "
                "the model or the lora section of the configuration has changed since it was written"
            )

    def save_adapter(self, folder: Path) -> None:
        """Write the adapter as peft safetensors that `PeftModel.from_pretrained` loads."""
        self.model.save_pretrained(str(folder), safe_serialization=True)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Dropout off for the time of the block."""
        training = self.model.training
        self.model.eval()
        try:
            yield
        finally:
            self.model.train(training)


def load(config: ModelConfig, lora: LoraConfig, seed: int) -> VisionLanguageModel:
    """The model of `config` with a fresh adapter whose random half is drawn from `seed`.

    Raises:
        InputError: there is no such model, it is not one that takes images and text, or the adapter
            does not fit it.
    """
    from peft import LoraConfig as PeftLora

    with quiet():
        base, processor = load_base(config)
    base.config.use_cache = False
    decoder_name, layers = _decoder(base)
    targets = _targets(base, decoder_name, lora.targets)
    with torch.random.fork_rng(), warnings.catch_warnings():
        # peft asks transformers for a property that transformers has renamed.
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*")
        torch.manual_seed(seed)
        adapter = PeftLora(
            r=lora.rank,
            lora_alpha=lora.alpha,
            lora_dropout=lora.dropout,
            target_modules=targets,
            modules_to_save=list(lora.trained) or None,
        )
        model = _with_adapter(base, adapter)
    _keep_statistics(model)
    if config.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.enable_input_require_grads()
    device = device_named(config.device)
    if device.type == "cuda" and config.deterministic:
        _ask_for_the_same_bits()
    model.to(device)
    text_config = base.config.get_text_config()
    longest = config.max_length or getattr(text_config, "max_position_embeddings", None) or 1_000_000
    image_token = getattr(base.config, "image_token_id", None)
    if image_token is None:
        raise InputError(f"{config.path}: its config has no image_token_id, so image tokens cannot be told")
    head = base.get_output_embeddings()
    if head is None:
        raise InputError(f"{type(base).__name__} tells of no head that gives its logits")
    vlm = VisionLanguageModel(model, Encoder(processor, image_token, longest), device, list(layers), head)
    _check_logits(vlm)
    return vlm


def _with_adapter(base: Any, adapter: Any) -> Any:
    """The peft model around a transformers model.

    Raises:
        InputError: peft takes the names of linear layers for those of experts, as in families whose experts were linear
            layers once (GLM-4.5V).
    """
    from peft import get_peft_model

    try:
        model = get_peft_model(base, adapter)
        fault = "it would put it on experts, too" if model.peft_config["default"].target_parameters else ""
    except ValueError as error:
        fault = first_line(error).rstrip(".")
    if fault:
        raise InputError(
            f"peft cannot put the adapter on the linear layers of {type(base).__name__} alone: {fault}; name layers "
            "outside its experts in lora.targets, such as q_proj and v_proj"
        )
    return model


def _keep_statistics(model: nn.Module) -> None:
    """Have frozen batch normalisation (of FastVLM's tower) keep its statistics, also in training: they are no part of
    the adapter, and would tie a sample to its batch mates."""
    for module in model.modules():
        trained = any(weight.requires_grad for weight in module.parameters(recurse=False))
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and not trained:
            module.register_forward_pre_hook(_evaluate)


def _evaluate(module: nn.Module, _: Any) -> None:
    module.eval()


@torch.no_grad()
def _check_logits(vlm: VisionLanguageModel) -> None:
    """Compare the model's logits of a few tokens with those that measuring and training make of its head; a scale that
    the model puts on them is theirs from here on.

    Raises:
        InputError: the model does more to them.
    """
    heard: list[torch.Tensor] = []
    words = vlm.encoder.tokenizer("a b c", add_special_tokens=False)["input_ids"]
    ids = torch.tensor([words], device=vlm.device)
    handle = vlm.head.register_forward_pre_hook(lambda _, args: heard.append(args[0]))
    try:
        with vlm.evaluating():
            told = vlm.model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits
    finally:
        handle.remove()
    made = vlm.logits(heard[0]) if heard else told.new_zeros(0)
    if made.shape == told.shape:
        vlm.scale = _ratio(told, made)
        made = vlm.logits(heard[0])
    # More than rounding; of a model that has diverged, nothing is said here.
    if made.shape != told.shape or (made - told).abs().max() > 0.01 * told.abs().max():
        raise InputError(
            f"{type(vlm.model.get_base_model()).__name__} changes the logits that its head gives in a way that is "
            "not known here, so what it thinks of an answer cannot be measured"
        )


def _ratio(told: torch.Tensor, made: torch.Tensor) -> float:
    """By what `made` is to be multiplied to come closest to `told`; 1 where that is mere rounding."""
    ratio = float((told.double() * made.double()).sum() / made.double().square().sum())
    return ratio if abs(ratio - 1.0) > 0.01 else 1.0


def _ask_for_the_same_bits() -> None:
    """Of the process from here on, also where only some operations can give them (torch warns of the others)."""
    # Read when cuBLAS is first used: https://docs.nvidia.com/cuda/cublas/#results-reproducibility
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # nothing here reads what it has not written


@contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' bars and its word on missing torchvision, which images do not need."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def load_base(config: ModelConfig) -> tuple[Any, Any]:
    """The model of `config` as it was released, on the CPU, and its processor.

    Raises:
        InputError: there is no such model, or it is not one that takes images and text.
    """
    from transformers import AutoModelForImageTextToText

    import lifelong.models.tower  # noqa: F401  (registers the tower of the small demo model)

    if not config.path:
        raise InputError("no model is named; set model.path in the configuration or pass --model")
    options = {"trust_remote_code": config.trust_remote_code}
    try:
        processor = load_processor(config.path, **options)
        model = AutoModelForImageTextToText.from_pretrained(
            config.path, dtype=config.dtype, attn_implementation=config.attention, **options
        )
    except (OSError, ValueError, ImportError, KeyError, UnpicklingError, SafetensorError) as error:
        told = f"{first_line(error).rstrip('.')}; {_mended(error)}"
        if Path(config.path).is_absolute() and not Path(config.path).exists():
            told = "there is no such folder; put it back, or say where it lies (--model, or model.path)"
        raise InputError(
            f"model {config.path!r} cannot be loaded as an image-text-to-text model: {told}"
        ) from error
    return model, processor


def _mended(error: BaseException) -> str:
    """What to do about a model that cannot be loaded."""
    if 'attn_implementation="eager"' in str(error):
        return "set model.attention to eager"
    if isinstance(error, ImportError):
        return "install what it needs"
    return "give a local folder or a hub name that can be reached"


def _decoder(model: Any) -> tuple[str, nn.ModuleList]:
    """The language model's name within the model, and its layers."""
    kind = type(model).__name__
    if model.config.is_encoder_decoder:
        raise InputError(
            f"{kind} has an encoder and a decoder; only models that read all in one sequence are known"
        )
    decoder = _holds_layers(model)
    for name, module in model.named_modules():
        if module is decoder:
            if any(hasattr(layer, "cross_attn") for layer in decoder.layers):
                raise InputError(
                    f"{kind} looks at images by cross-attention; only models with them among their tokens are known"
                )
            return name, decoder.layers
    raise InputError(f"{kind}: no decoder with a list of layers was found in it")


def _holds_layers(model: Any) -> Any:
    """The part of a model's decoder that has its layers: the decoder itself, or one inside (Llama 4's has a head)."""
    decoder = model.get_decoder()
    parts = [decoder] if decoder is model else decoder.modules()
    return next((part for part in parts if isinstance(getattr(part, "layers", None), nn.ModuleList)), None)


def _targets(model: nn.Module, decoder: str, names: tuple[str, ...]) -> str:
    """A regular expression for the linear layers of the decoder that get an adapter."""
    layers = model.get_submodule(decoder).layers
    found = [
        (name.rsplit(".", 1)[-1], type(module).__module__)
        for name, module in layers.named_modules()
        if isinstance(module, nn.Linear)
    ]
    # A linear layer of the family's own making gives something else (Llama 4's router two tensors).
    own = {name for name, place in found if place == type(layers[0]).__module__}
    linear = {name for name, _ in found} - own
    unknown = sorted(set(names) - linear)
    if unknown:
        raise InputError(
            f"lora.targets: the language model has no linear layer named {', '.join(unknown)}; "
            f"it has {', '.join(sorted(linear))}"
        )
    chosen = "|".join(re.escape(name) for name in sorted(names or linear))
    return rf"{re.escape(decoder)}\.layers\..*\.({chosen})"


def device_named(name: str) -> torch.device:
    """What `model.device` names; auto: cuda where there is one.

    Raises:
        InputError: torch knows no such device, or this machine has none.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(
            f"model.device is {name!r}: {first_line(error)}; write auto, cpu, cuda or cuda:1"
        ) from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"model.device is {name!r}, and torch sees no GPU here; write auto or cpu")
    return device
