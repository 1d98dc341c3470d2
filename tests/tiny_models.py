"""Tiny, locally built vision-language models of real families, saved as ordinary folders.

python -m tests.tiny_models llava|qwen2_5_vl|idefics3|… FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoConfig,
    CLIPImageProcessor,
    CLIPVisionConfig,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3ImageProcessor,
    Gemma3Processor,
    Gemma4AudioFeatureExtractor,
    Gemma4Config,
    Gemma4ForConditionalGeneration,
    Gemma4ImageProcessor,
    Gemma4Processor,
    GemmaConfig,
    GotOcr2ImageProcessor,
    Granite4VisionConfig,
    Granite4VisionForConditionalGeneration,
    Granite4VisionProcessor,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3ImageProcessor,
    Idefics3Processor,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLProcessor,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextImageProcessor,
    LlavaNextProcessor,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionImageProcessor,
    LlavaOnevisionProcessor,
    LlavaProcessor,
    MllamaConfig,
    MllamaForConditionalGeneration,
    MllamaImageProcessor,
    MllamaProcessor,
    Ovis2Config,
    Ovis2ForConditionalGeneration,
    Ovis2ImageProcessor,
    Ovis2Processor,
    PaliGemmaConfig,
    PaliGemmaForConditionalGeneration,
    PaliGemmaProcessor,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2Config,
    Qwen2VLImageProcessor,
    Qwen3_5Config,
    Qwen3_5ForConditionalGeneration,
    Qwen3_5MoeConfig,
    Qwen3_5MoeForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    SiglipImageProcessor,
    SiglipVisionConfig,
)

from lifelong.models.processors import image_only

TEXT = [
    "what color is the circle? is there a red shape? yes no triangle rectangle blue green",
    "Describe the picture. Which caption fits? A B C D. Read the text. Where is the bird? [0.12, 0.34, 0.56, 0.78]",
]

# The chat templates are those of the released models, in short.
LLAVA_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'user' %}USER: {% elif message['role'] == 'assistant' %}"
    "ASSISTANT: {% else %}{{ message['role'] }}: {% endif %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>\n{% else %}{{ part['text'] }}"
    "{% endif %}{% endfor %} {% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
QWEN_TEMPLATE = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}<|im_start|>system\n"
    "You are a helpful assistant.<|im_end|>\n{% endif %}<|im_start|>{{ message['role'] }}\n"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
IDEFICS_TEMPLATE = (
    "<|im_start|>{% for message in messages %}{{ message['role'] | capitalize }}"
    "{% if message['content'][0]['type'] == 'image' %}{{ ':' }}{% else %}{{ ': ' }}{% endif %}"
    "{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}{% else %}{{ '<image>' }}"
    "{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
)


MISTRAL_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'assistant' %} "
    "{{ message['content'][0]['text'] }}</s>{% else %}[INST] {% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>\n{% else %}{{ part['text'] }}{% endif %}{% endfor %} [/INST]{% endif %}"
    "{% endfor %}"
)
ONEVISION_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }} {% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% endif %}{% endfor %}{% for part in message['content'] %}"
    "{% if part['type'] == 'text' %}\n{{ part['text'] }}{% endif %}{% endfor %}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
INTERN_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<IMG_CONTEXT>\n{% else %}{{ part['text'] }}{% endif %}{% endfor %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
GEMMA_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}OPEN{{ 'model' if message['role'] == 'assistant' else 'user' }}\n"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}IMAGE{% else %}{{ part['text'] | trim }}"
    "{% endif %}{% endfor %}CLOSE\n{% endfor %}{% if add_generation_prompt %}OPENmodel\n{% endif %}"
)
GEMMA3_TEMPLATE = (
    GEMMA_TEMPLATE.replace("OPEN", "<start_of_turn>")
    .replace("CLOSE", "<end_of_turn>")
    .replace("IMAGE", "<start_of_image>")
)
GEMMA4_TEMPLATE = (
    GEMMA_TEMPLATE.replace("OPEN", "<|turn>")
    .replace("CLOSE", "<turn|>")
    .replace("IMAGE", "\n\n<|image|>\n\n")
)
MLLAMA_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|start_header_id|>{{ message['role'] }}<|end_header_id|>\n\n"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<|image|>{% else %}{{ part['text'] }}"
    "{% endif %}{% endfor %}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
TOWER = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
}
"""A vision transformer at 32 px, patch 8: 16 patches."""


def _tokenizer(special: list[str], bos: str, eos: str, pad: str, **named: str) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT * 4, trainer)
    named |= {"bos_token": bos, "eos_token": eos, "pad_token": pad}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **named)


def _text_of(tokenizer: PreTrainedTokenizerFast, **fields: object) -> dict:
    """The language model's configuration for a tokenizer."""
    tokens = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
        **tokens,
        **fields,
    }


def llava(folder: Path) -> Path:
    """LLaVA-1.5: CLIP tower at 32 px, patch 8 (16 image tokens), Llama of 3 layers."""
    tokenizer = _tokenizer(["<s>", "</s>", "<pad>", "<image>"], "<s>", "</s>", "<pad>")
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**TOWER),
        text_config=LlamaConfig(**_text_of(tokenizer)),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-2,
    )
    model = LlavaForConditionalGeneration(config)
    images = CLIPImageProcessor(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}, do_center_crop=True
    )
    processor = LlavaProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=LLAVA_TEMPLATE,
    )
    return _save(model, processor, folder)


QWEN_TOKENS = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
]


def qwen2_5_vl(folder: Path) -> Path:
    """Qwen2.5-VL: images of their own size, 14 px patches merged 2 × 2, multimodal rotary positions."""
    tokenizer = _tokenizer(QWEN_TOKENS, "<|im_start|>", "<|im_end|>", "<|endoftext|>")
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in QWEN_TOKENS}
    config = Qwen2_5_VLConfig(
        text_config=_text_of(tokenizer, rope_scaling={"type": "mrope", "mrope_section": [2, 3, 3]}),
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_heads": 2,
            "out_hidden_size": 64,
            "patch_size": 14,
            "window_size": 56,
            "fullatt_block_indexes": [1],
        },
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
    )
    model = Qwen2_5_VLForConditionalGeneration(config)
    images = Qwen2VLImageProcessor(size={"shortest_edge": 28 * 28, "longest_edge": 56 * 56})
    processor = image_only(Qwen2_5_VLProcessor)(images, tokenizer, None, chat_template=QWEN_TEMPLATE)
    return _save(model, processor, folder)


def idefics3(folder: Path) -> Path:
    """Idefics3 (SmolVLM's architecture): nested pixel tensors, fake tokens around every image."""
    special = [
        "<|endoftext|>",
        "<|im_start|>",
        "<end_of_utterance>",
        "<image>",
        "<fake_token_around_image>",
        "<global-img>",
    ]
    special += [f"<row_{row}_col_{column}>" for row in range(1, 3) for column in range(1, 3)]
    tokenizer = _tokenizer(special, "<|im_start|>", "<end_of_utterance>", "<|endoftext|>")
    config = Idefics3Config(
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        vision_config=TOWER,
        text_config=AutoConfig.for_model("llama", **_text_of(tokenizer)),
        scale_factor=2,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = Idefics3ForConditionalGeneration(config)
    images = Idefics3ImageProcessor(
        size={"longest_edge": 32}, max_image_size={"longest_edge": 32}, do_image_splitting=False
    )
    processor = Idefics3Processor(
        image_processor=images, tokenizer=tokenizer, image_seq_len=4, chat_template=IDEFICS_TEMPLATE
    )
    return _save(model, processor, folder)


def _qwen3(folder: Path, config_class: type, model_class: type, vision: dict, **text: object) -> Path:
    tokenizer = _tokenizer(QWEN_TOKENS, "<|im_start|>", "<|im_end|>", "<|endoftext|>")
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in QWEN_TOKENS}
    rope = {"rope_type": "default", "rope_theta": 5e6, "mrope_section": [4, 2, 2], "mrope_interleaved": True}
    config = config_class(
        text_config=_text_of(
            tokenizer, head_dim=16, rope_parameters={**rope, "partial_rotary_factor": 1.0}, **text
        ),
        vision_config={
            "depth": 3,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_heads": 2,
            "out_hidden_size": 64,
            "patch_size": 16,
            "num_position_embeddings": 16,
            **vision,
        },
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
    )
    images = Qwen2VLImageProcessor(size={"shortest_edge": 32 * 32, "longest_edge": 64 * 64}, patch_size=16)
    processor = image_only(Qwen3VLProcessor)(images, tokenizer, None, chat_template=QWEN_TEMPLATE)
    return _save(model_class(config), processor, folder)


def qwen3_vl(folder: Path) -> Path:
    """Qwen3-VL: features of the tower's first layers are added to those of the language model."""
    vision = {"deepstack_visual_indexes": [0, 1]}
    return _qwen3(folder, Qwen3VLConfig, Qwen3VLForConditionalGeneration, vision)


LINEAR = {
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "layer_types": ["linear_attention", "full_attention", "linear_attention"],
}


def qwen3_5(folder: Path) -> Path:
    """Qwen3.5: the first and the last layer have linear attention."""
    return _qwen3(folder, Qwen3_5Config, Qwen3_5ForConditionalGeneration, {}, **LINEAR)


def qwen3_5_moe(folder: Path) -> Path:
    """The same with a mixture of experts, one of which all tokens share."""
    experts = {
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
        "shared_expert_intermediate_size": 32,
    }
    return _qwen3(folder, Qwen3_5MoeConfig, Qwen3_5MoeForConditionalGeneration, {}, **LINEAR, **experts)


GRID = [[32, 64], [64, 32], [64, 64]]
"""Sizes in tiles of 32 px that an image of LLaVA-NeXT and LLaVA-OneVision is cut into."""


def llava_next(folder: Path) -> Path:
    """LLaVA-NeXT: an image is a tile of the whole and tiles of its parts."""
    tokenizer = _tokenizer(["<s>", "</s>", "<pad>", "<image>"], "<s>", "</s>", "<pad>")
    config = LlavaNextConfig(
        vision_config=CLIPVisionConfig(**TOWER),
        text_config=LlamaConfig(**_text_of(tokenizer)),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_grid_pinpoints=GRID,
    )
    processor = LlavaNextProcessor(
        LlavaNextImageProcessor(
            size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}, image_grid_pinpoints=GRID
        ),
        tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=MISTRAL_TEMPLATE,
    )
    return _save(LlavaNextForConditionalGeneration(config), processor, folder)


def llava_onevision(folder: Path) -> Path:
    """LLaVA-OneVision: tiles for a sample's only image; one tile each where there are several."""
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>", "<video>"]
    tokenizer = _tokenizer(special, "<|im_start|>", "<|im_end|>", "<|endoftext|>")
    grid = [[32, 32], *GRID]
    config = LlavaOnevisionConfig(
        vision_config=SiglipVisionConfig(**TOWER, vision_use_head=False),
        text_config=Qwen2Config(**_text_of(tokenizer)),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=grid,
    )
    processor = image_only(LlavaOnevisionProcessor)(
        LlavaOnevisionImageProcessor(size={"height": 32, "width": 32}, image_grid_pinpoints=grid),
        tokenizer,
        None,
        num_image_tokens=16,
        vision_feature_select_strategy="full",
        chat_template=ONEVISION_TEMPLATE,
    )
    return _save(LlavaOnevisionForConditionalGeneration(config), processor, folder)


def granite4_vision(folder: Path) -> Path:
    """Granite 4 Vision: tiles, read by a Q-Former and added to the states of two layers; scaled logits."""
    tokenizer = _tokenizer(["<s>", "</s>", "<pad>", "<image>"], "<s>", "</s>", "<pad>")
    grid = [[64, 128], [128, 64], [128, 128]]
    seen = {"vision_feature_layer": -1, "vision_feature_select_strategy": "full", "downsample_rate": "1/2"}
    config = Granite4VisionConfig(
        vision_config=SiglipVisionConfig(
            **TOWER | {"hidden_size": 64, "image_size": 64}, vision_use_head=False
        ),
        text_config=_text_of(tokenizer, logits_scaling=0.25, attention_multiplier=0.2),
        qformer_config={"intermediate_size": 32, "num_hidden_layers": 1, "cross_attention_frequency": 1},
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_grid_pinpoints=grid,
        deepstack_layer_map=[[-1, 0]],
        spatial_target_layers=[1, 1, 1, 1],
        **seen,
    )
    images = LlavaNextImageProcessor(
        size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64}, image_grid_pinpoints=grid
    )
    processor = Granite4VisionProcessor(
        images,
        tokenizer,
        patch_size=8,
        vision_feature_select_strategy="full",
        downsample_rate="1/2",
        chat_template=MISTRAL_TEMPLATE,
    )
    return _save(Granite4VisionForConditionalGeneration(config), processor, folder)


def ovis2(folder: Path) -> Path:
    """Ovis2: an image is words of a visual vocabulary, tile by tile, with a mark behind each; another placeholder."""
    marks = ["<IMG_START>", "<IMG_GRID>", "<IMG_COL>", "<IMG_ROW>", "<IMG_END>"]
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>", "<IMG_ATOM>", *marks]
    tokenizer = _tokenizer(special, "<|im_start|>", "<|im_end|>", "<|endoftext|>")
    config = Ovis2Config(
        vision_config={**TOWER, "vocab_size": 32, "hidden_stride": 2},
        text_config=Qwen2Config(**_text_of(tokenizer)),
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_ATOM>"),
        visual_indicator_token_ids=tokenizer.convert_tokens_to_ids(marks),
        vocab_size=len(tokenizer),
        hidden_size=64,
    )
    images = Ovis2ImageProcessor(size={"height": 32, "width": 32}, crop_to_patches=True, max_patches=4)
    processor = Ovis2Processor(images, tokenizer, image_seq_length=4, chat_template=ONEVISION_TEMPLATE)
    return _save(Ovis2ForConditionalGeneration(config), processor, folder)


def internvl(folder: Path) -> Path:
    """InternVL: up to four tiles of 4 tokens, and one of the whole."""
    named = {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    }
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *named.values()]
    tokenizer = _tokenizer(special, "<|im_start|>", "<|im_end|>", "<|endoftext|>", **named)
    config = InternVLConfig(
        vision_config={**TOWER, "image_size": [32, 32], "patch_size": [8, 8]},
        text_config=Qwen2Config(**_text_of(tokenizer)),
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=4,
    )
    images = GotOcr2ImageProcessor(size={"height": 32, "width": 32}, crop_to_patches=True, max_patches=4)
    processor = image_only(InternVLProcessor)(
        images, tokenizer, None, image_seq_length=4, chat_template=INTERN_TEMPLATE
    )
    return _save(InternVLForConditionalGeneration(config), processor, folder)


def gemma3(folder: Path) -> Path:
    """Gemma 3: the tokens of an image see each other, layers see 16 tokens back, or all; other placeholders."""
    named = {
        "boi_token": "<start_of_image>",
        "eoi_token": "<end_of_image>",
        "image_token": "<image_soft_token>",
    }
    special = ["<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>", *named.values()]
    tokenizer = _tokenizer(special, "<bos>", "<eos>", "<pad>", **named)
    ids = {name: tokenizer.convert_tokens_to_ids(token) for name, token in named.items()}
    config = Gemma3Config(
        vision_config=SiglipVisionConfig(**TOWER, vision_use_head=False),
        text_config=_text_of(
            tokenizer,
            head_dim=16,
            query_pre_attn_scalar=16,
            sliding_window=16,
            layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        ),
        mm_tokens_per_image=4,
        boi_token_index=ids["boi_token"],
        eoi_token_index=ids["eoi_token"],
        image_token_index=ids["image_token"],
    )
    model = Gemma3ForConditionalGeneration(config)
    # Zero in a model that has not been trained: it would not see the images.
    torch.nn.init.normal_(model.model.multi_modal_projector.mm_input_projection_weight, std=0.2)
    images = Gemma3ImageProcessor(size={"height": 32, "width": 32})
    processor = Gemma3Processor(images, tokenizer, image_seq_length=4, chat_template=GEMMA3_TEMPLATE)
    return _save(model, processor, folder)


def gemma4(folder: Path) -> Path:
    """Gemma 4: images of their own size, embeddings of each layer's own, capped logits."""
    named = {
        "boi_token": "<|image>",
        "eoi_token": "<image|>",
        "image_token": "<|image|>",
        "boa_token": "<|audio>",
        "eoa_token": "<audio|>",
        "audio_token": "<|audio|>",
    }
    special = ["<pad>", "<eos>", "<bos>", "<|turn>", "<turn|>", "<|video|>", *named.values()]
    tokenizer = _tokenizer(special, "<bos>", "<eos>", "<pad>", **named)
    ids = {name: tokenizer.convert_tokens_to_ids(token) for name, token in named.items()}
    config = Gemma4Config(
        text_config=_text_of(
            tokenizer,
            head_dim=16,
            global_head_dim=16,
            sliding_window=16,
            layer_types=["sliding_attention", "sliding_attention", "full_attention"],
            vocab_size_per_layer_input=len(tokenizer),
            hidden_size_per_layer_input=8,
            final_logit_softcapping=1.0,
            use_bidirectional_attention="vision",
        ),
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "patch_size": 4,
            "pooling_kernel_size": 3,
        },
        audio_config=None,
        boi_token_id=ids["boi_token"],
        eoi_token_id=ids["eoi_token"],
        image_token_id=ids["image_token"],
        video_token_id=tokenizer.convert_tokens_to_ids("<|video|>"),
        boa_token_id=ids["boa_token"],
        eoa_token_index=ids["eoa_token"],
        audio_token_id=ids["audio_token"],
    )
    images = Gemma4ImageProcessor(patch_size=4, max_soft_tokens=70, pooling_kernel_size=3)
    processor = image_only(Gemma4Processor)(
        Gemma4AudioFeatureExtractor(),
        images,
        tokenizer,
        None,
        image_seq_length=70,
        chat_template=GEMMA4_TEMPLATE,
    )
    return _save(Gemma4ForConditionalGeneration(config), processor, folder)


def mllama(folder: Path) -> Path:
    """Llama 3.2 Vision: its second layer looks at images by cross-attention."""
    special = [
        "<|begin_of_text|>",
        "<|eot_id|>",
        "<|pad|>",
        "<|start_header_id|>",
        "<|end_header_id|>",
        "<|python_tag|>",
    ]
    tokenizer = _tokenizer(special, "<|begin_of_text|>", "<|eot_id|>", "<|pad|>")
    text = _text_of(tokenizer, cross_attention_layers=[1])
    tokenizer.add_tokens(["<|image|>"], special_tokens=True)
    config = MllamaConfig(
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_global_layers": 1,
            "attention_heads": 2,
            "vision_output_dim": 64,
            "image_size": 32,
            "patch_size": 8,
            "intermediate_layers_indices": [0],
        },
        text_config={**text, "rope_parameters": {"rope_type": "default", "rope_theta": 5e5}},
        image_token_index=tokenizer.convert_tokens_to_ids("<|image|>"),
    )
    images = MllamaImageProcessor(size={"height": 32, "width": 32}, max_image_tiles=4)
    processor = MllamaProcessor(images, tokenizer, chat_template=MLLAMA_TEMPLATE)
    return _save(MllamaForConditionalGeneration(config), processor, folder)


def paligemma(folder: Path) -> Path:
    """PaliGemma: no chat template, and a processor that writes a text of its own."""
    tokenizer = _tokenizer(
        ["<pad>", "<eos>", "<bos>", "<image>"], "<bos>", "<eos>", "<pad>", image_token="<image>"
    )
    images = SiglipImageProcessor(size={"height": 32, "width": 32})
    images.image_seq_length = 16
    processor = PaliGemmaProcessor(images, tokenizer)
    config = PaliGemmaConfig(
        vision_config=SiglipVisionConfig(**TOWER, vision_use_head=False),
        text_config=GemmaConfig(**_text_of(tokenizer, head_dim=16)),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        projection_dim=64,
        hidden_size=64,
        vocab_size=len(tokenizer),
    )
    return _save(PaliGemmaForConditionalGeneration(config), processor, folder)


def _save(model: torch.nn.Module, processor: object, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


FAMILIES = {
    each.__name__: each
    for each in (
        llava,
        qwen2_5_vl,
        idefics3,
        qwen3_vl,
        qwen3_5,
        qwen3_5_moe,
        llava_next,
        llava_onevision,
        granite4_vision,
        ovis2,
        internvl,
        gemma3,
        gemma4,
        mllama,
        paligemma,
    )
}


def build(family: str, folder: Path, seed: int = 0) -> Path:
    """Build one family's tiny model with seeded weights and save it in `folder`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return FAMILIES[family](folder)


if __name__ == "__main__":
    print(build(sys.argv[1], Path(sys.argv[2])))
