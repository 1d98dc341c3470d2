"""Loading a model, and the adapter that is put on it, saved and loaded."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import LoraConfig as PeftLora
from peft import PeftModel
from torch import nn
from transformers import (
    AutoModelForImageTextToText,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaForConditionalGeneration,
    LlavaNextVideoProcessor,
    Qwen2_5_VLProcessor,
)

from lifelong.config import LoraConfig, ModelConfig
from lifelong.errors import InputError
from lifelong.models.load import (
    VisionLanguageModel,
    _decoder,
    _keep_statistics,
    _targets,
    _with_adapter,
    load,
    load_base,
)
from lifelong.models.processors import image_only, load_processor
from tests.conftest import Loader, assert_close, disturb, mixed


def trainable(vlm: VisionLanguageModel) -> dict[str, torch.Tensor]:
    return {name: w.detach().clone() for name, w in vlm.model.named_parameters() if w.requires_grad}


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(a[name].equal(b[name]) for name in a)


def test_a_fresh_adapter_depends_on_its_seed_alone(family: str, load_tiny: Loader) -> None:
    torch.manual_seed(7)
    state = torch.get_rng_state()
    first = trainable(load_tiny(family, seed=3))
    assert torch.get_rng_state().equal(state)
    torch.manual_seed(8)
    assert equal(first, trainable(load_tiny(family, seed=3)))
    assert not equal(first, trainable(load_tiny(family, seed=4)))
    assert all((weight == 0).all() for name, weight in first.items() if "lora_B" in name)


def test_only_the_language_models_linear_layers_are_adapted(family: str, load_tiny: Loader) -> None:
    vlm = load_tiny(family)
    expected = {
        f"{part}.{name}"
        for part, names in {
            "self_attn": ("q_proj", "k_proj", "v_proj", "o_proj"),
            "mlp": ("gate_proj", "up_proj", "down_proj"),
        }.items()
        for name in names
    }
    assert len(vlm.decoder_layers) == 3
    assert all(set(vlm.adapted(layer)) == expected for layer in range(3))
    weights = trainable(vlm)
    assert len(weights) == 3 * len(expected) * 2
    assert not any("vision" in name for name in weights)


def test_targets_name_the_layers(load_tiny: Loader, family: str) -> None:
    vlm = load_tiny(family, targets=("q_proj", "down_proj"))
    assert list(vlm.adapted(1)) == ["self_attn.q_proj", "mlp.down_proj"]


def test_an_unknown_target_is_named_with_those_there_are(load_tiny: Loader, family: str) -> None:
    with pytest.raises(InputError, match=r"no linear layer named qproj; it has .*q_proj"):
        load_tiny(family, targets=("q_proj", "qproj"))


def test_a_layer_without_adapter_is_an_error(vlm: VisionLanguageModel) -> None:
    bare = replace(vlm, decoder_layers=[nn.Sequential(nn.Linear(2, 2))])
    with pytest.raises(InputError, match=r"decoder layer 0 has no LoRA adapter.*lora\.targets"):
        bare.adapted(0)


@pytest.mark.parametrize("trained", [(), ("lm_head",)])
def test_a_saved_adapter_comes_back_bit_for_bit(
    family: str, load_tiny: Loader, tmp_path: Path, trained: tuple[str, ...]
) -> None:
    vlm = load_tiny(family, trained=trained)
    disturb(vlm)
    vlm.save_adapter(tmp_path)
    other = load_tiny(family, seed=5, trained=trained)
    assert not equal(trainable(vlm), trainable(other))
    other.load_adapter(tmp_path)
    assert equal(trainable(vlm), trainable(other))


def test_peft_loads_a_saved_adapter(
    family: str, vlm: VisionLanguageModel, model_folders: dict[str, Path], tmp_path: Path
) -> None:
    vlm.save_adapter(tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} <= {".safetensors", ".json", ".md"}
    base = AutoModelForImageTextToText.from_pretrained(model_folders[family])
    again = PeftModel.from_pretrained(base, str(tmp_path)).eval()
    inputs = vlm.encoder.training(mixed()[:3]).inputs
    with torch.no_grad():
        assert again(**inputs).logits.equal(vlm.model(**inputs).logits)
        with again.disable_adapter():
            assert not again(**inputs).logits.allclose(vlm.model(**inputs).logits, atol=1e-3)


def test_an_adapter_of_another_shape_is_an_input_error(
    family: str, load_tiny: Loader, tmp_path: Path
) -> None:
    load_tiny(family).save_adapter(tmp_path)
    with pytest.raises(InputError, match="lora section of the configuration has changed"):
        load_tiny(family, rank=2).load_adapter(tmp_path)
    with pytest.raises(InputError, match="lora section of the configuration has changed"):
        load_tiny(family, targets=("q_proj",)).load_adapter(tmp_path)


def test_an_adapter_of_fewer_layers_is_an_input_error(family: str, load_tiny: Loader, tmp_path: Path) -> None:
    load_tiny(family, targets=("q_proj",)).save_adapter(tmp_path)
    with pytest.raises(InputError, match="lora section of the configuration has changed"):
        load_tiny(family).load_adapter(tmp_path)


def test_evaluating_turns_dropout_off_and_back_on(load_tiny: Loader) -> None:
    vlm = load_tiny("llava")
    vlm.model.train()

    def fail() -> None:
        with vlm.evaluating():
            assert not any(module.training for module in vlm.model.modules())
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert vlm.model.training


@torch.no_grad()
def test_head_gives_the_models_logits(vlm: VisionLanguageModel) -> None:
    inputs = vlm.encoder.training(mixed()[:3]).inputs
    caught: list[torch.Tensor] = []
    handle = vlm.head.register_forward_pre_hook(lambda _, args: caught.append(args[0]))
    try:
        logits = vlm.model(**inputs).logits
    finally:
        handle.remove()
    assert vlm.logits(caught[0]).equal(logits)
    assert vlm.vocabulary == logits.shape[-1]


def change_logits(monkeypatch: pytest.MonkeyPatch, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Have LLaVA do something to the logits of its head."""
    forward = LlavaForConditionalGeneration.forward

    def changed(self: LlavaForConditionalGeneration, **inputs: Any) -> Any:
        output = forward(self, **inputs)
        output.logits = change(output.logits)
        return output

    monkeypatch.setattr(LlavaForConditionalGeneration, "forward", changed)


def test_a_model_that_changes_its_heads_logits_is_refused(
    load_tiny: Loader, monkeypatch: pytest.MonkeyPatch
) -> None:
    change_logits(monkeypatch, torch.square)
    with pytest.raises(InputError, match="changes the logits that its head gives"):
        load_tiny("llava")


@torch.no_grad()
def test_the_scale_that_a_model_puts_on_its_logits_is_found(
    load_tiny: Loader, monkeypatch: pytest.MonkeyPatch
) -> None:
    change_logits(monkeypatch, lambda logits: logits / 8)
    vlm = load_tiny("llava")
    inputs = vlm.encoder.training(mixed()[:3]).inputs
    caught: list[torch.Tensor] = []
    vlm.head.register_forward_pre_hook(lambda _, args: caught.append(args[0]))
    assert_close(vlm.model(**inputs).logits, vlm.logits(caught[0]), 1e-5)


def test_a_model_that_tells_of_no_head_is_refused(load_tiny: Loader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LlavaForConditionalGeneration, "get_output_embeddings", lambda self: None)
    with pytest.raises(InputError, match="tells of no head"):
        load_tiny("llava")


def test_a_model_of_encoder_and_decoder_is_refused(model_folders: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(model_folders["llava"], tmp_path / "llava")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(config | {"is_encoder_decoder": True}), encoding="utf-8")
    with pytest.raises(InputError, match="has an encoder and a decoder"):
        load(ModelConfig(path=str(folder), device="cpu"), LoraConfig(), 0)


def test_a_processor_that_asks_its_video_part_renders_without_it(model_folders: dict[str, Path]) -> None:
    class Asking(Qwen2_5_VLProcessor):
        """As SmolVLM's does."""

        def apply_chat_template(self, *turns: Any, **options: Any) -> Any:
            return super().apply_chat_template(*turns, num_frames=self.video_processor.num_frames, **options)

    whole = load_processor(str(model_folders["qwen2_5_vl"]))
    asking = image_only(Asking)(
        whole.image_processor, whole.tokenizer, None, chat_template=whole.chat_template
    )
    messages = mixed()[0].messages
    assert asking.apply_chat_template(messages) == whole.apply_chat_template(messages)


def test_a_processor_may_take_its_video_part_first(model_folders: dict[str, Path], tmp_path: Path) -> None:
    whole = load_processor(str(model_folders["llava"]))
    first = image_only(LlavaNextVideoProcessor)
    made = first(None, whole.image_processor, whole.tokenizer, chat_template=whole.chat_template)
    made.save_pretrained(tmp_path)
    read = first.from_pretrained(tmp_path)
    assert read.tokenizer.get_vocab() == whole.tokenizer.get_vocab()
    assert read.image_processor.to_dict() == whole.image_processor.to_dict()
    messages = mixed()[0].messages
    assert read.apply_chat_template(messages) == whole.apply_chat_template(messages)


def test_a_processor_that_cannot_do_without_its_video_part_is_refused(
    model_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Asking(Qwen2_5_VLProcessor):
        """As MiniCPM-V's does."""

        def __init__(
            self, image_processor: Any, tokenizer: Any, video_processor: Any, chat_template: Any = None
        ) -> None:
            super().__init__(image_processor, tokenizer, video_processor, chat_template)
            self.frames = self.video_processor.num_frames

    monkeypatch.setattr("transformers.utils.is_torchvision_available", lambda: False)
    monkeypatch.setattr("transformers.Qwen2_5_VLProcessor", Asking)
    with pytest.raises(
        InputError, match=r"Asking reads its settings from its video part.*install torchvision"
    ):
        load(ModelConfig(path=str(model_folders["qwen2_5_vl"]), device="cpu"), LoraConfig(), 0)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (
            ImportError("\nIt requires torchvision.\nSee"),
            "model: It requires torchvision; install what it needs",
        ),
        (ValueError('No sdpa. Load it with `attn_implementation="eager"`'), "set model.attention to eager"),
    ],
)
def test_what_to_do_about_a_model_that_cannot_be_loaded(
    error: Exception, told: str, model_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr("lifelong.models.load.load_processor", fail)
    with pytest.raises(InputError, match=re.escape(told)):
        load(ModelConfig(path=str(model_folders["llava"]), device="cpu"), LoraConfig(), 0)


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_an_adapter_that_peft_would_put_on_experts_is_an_input_error(
    dropout: float, model_folders: dict[str, Path]
) -> None:
    """As it does on GLM-4.5V, of whose type this LLaVA says it is."""
    base, _ = load_base(ModelConfig(path=str(model_folders["llava"])))
    base.config.model_type = "glm4v_moe"
    for part in base.model.language_model.layers:
        part.mlp.experts = nn.Module()
        part.mlp.experts.gate_up_proj = nn.Parameter(torch.zeros(2, 8, 4))
    adapter = PeftLora(target_modules=r".*\.(q_proj|gate_proj|up_proj)", lora_dropout=dropout)
    with pytest.raises(InputError, match=r"alone: .*; name layers outside its experts in lora\.targets"):
        _with_adapter(base, adapter)


class Router(nn.Linear):
    """As Llama 4's: its output is no tensor."""


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.router, self.q_proj = Router(2, 2), nn.Linear(2, 2)


class Headed(nn.Module):
    """A model whose decoder has a head of its own, as Llama 4's."""

    config = SimpleNamespace(is_encoder_decoder=False)

    def __init__(self) -> None:
        super().__init__()
        self.language_model = nn.Module()
        self.language_model.model = nn.Module()
        self.language_model.model.layers = nn.ModuleList([Layer()])

    def get_decoder(self) -> nn.Module:
        return self.language_model


def test_layers_are_found_inside_the_decoder() -> None:
    model = Headed()
    assert _decoder(model) == ("language_model.model", model.language_model.model.layers)


def test_linear_layers_of_a_familys_own_making_are_not_adapted() -> None:
    assert _targets(Headed(), "language_model.model", ()).endswith("(q_proj)")
    with pytest.raises(InputError, match=r"no linear layer named router; it has q_proj"):
        _targets(Headed(), "language_model.model", ("router",))


def test_frozen_batch_normalisation_keeps_its_statistics() -> None:
    frozen, trained = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    model = nn.Sequential(frozen.requires_grad_(False), trained)
    _keep_statistics(model)
    batch = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    alone = model.eval()[0](batch)[:1]
    model.train()(batch)
    assert (frozen.running_mean == 0).all()
    assert (trained.running_mean != 0).all()
    assert model.train()[0](batch)[:1].equal(alone)


def test_dtype_and_longest_sample_are_those_asked_for(model_folders: dict[str, Path], family: str) -> None:
    path = str(model_folders[family])
    as_saved = load(ModelConfig(path=path, device="cpu"), LoraConfig(), 0)
    assert as_saved.encoder.max_length == 2048
    assert as_saved.model.dtype == torch.float32
    config = ModelConfig(path=path, device="cpu", dtype="bfloat16", max_length=77)
    asked = load(config, LoraConfig(), 0)
    assert asked.encoder.max_length == 77
    assert asked.head.weight.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("name", "words"),
    [("gpu", "model.device is 'gpu'"), ("cuda", "torch sees no GPU here; write auto or cpu")],
)
def test_a_device_that_is_not_there(
    model_folders: dict[str, Path], name: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match=re.escape(words)):
        load(ModelConfig(path=str(model_folders["llava"]), device=name), LoraConfig(), seed=0)


def test_a_processor_without_its_video_part_loads_where_torchvision_is(
    model_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What transformers said on a machine with torchvision of a folder that one without it had saved."""

    def refuse(name: str, **options: object) -> None:
        raise OSError(f"Can't load video processor for '{name}'.")

    monkeypatch.setattr("transformers.utils.is_torchvision_available", lambda: True)
    monkeypatch.setattr("transformers.AutoProcessor.from_pretrained", refuse)
    assert type(load_processor(str(model_folders["qwen2_5_vl"]))).__name__ == "Qwen2_5_VLProcessor"
    with pytest.raises(OSError, match="video processor"):
        load_processor(str(model_folders["llava"]))


def test_no_model_and_no_vision_language_model(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"set model\.path in the configuration or pass --model"):
        load(ModelConfig(), LoraConfig(), 0)
    with pytest.raises(InputError, match="cannot be loaded as an image-text-to-text model"):
        load(ModelConfig(path=str(tmp_path / "absent")), LoraConfig(), 0)
    text_only = LlamaConfig(
        vocab_size=9, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1
    )
    LlamaForCausalLM(text_only).save_pretrained(tmp_path / "llama")
    with pytest.raises(InputError, match="cannot be loaded as an image-text-to-text model"):
        load(ModelConfig(path=str(tmp_path / "llama")), LoraConfig(), 0)
