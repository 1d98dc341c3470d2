"""Fixtures of the tests that run models: three tiny ones of real families, and conversations for them."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Before any import of transformers or torch: no test reaches for a hub or for more than one core.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
from PIL import Image

from tests.docs.summary import pytest_terminal_summary  # noqa: F401  # a hook: pytest finds it here

if TYPE_CHECKING:
    import torch

    from lifelong.models.encode import Conversation
    from lifelong.models.load import VisionLanguageModel

FAMILIES = ("llava", "qwen2_5_vl", "idefics3")
IMAGE = "<image>"
"""Stands for a picture in the turns that `chat` is given, whatever a model's own token is."""


def pytest_configure() -> None:
    """Ctrl-C works in the tests and in what they start, also where they are run in a background that ignores it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def picture(seed: int) -> Image.Image:
    """A picture of noise whose sides, 28 to 67 pixels, depend on the seed too."""
    rng = np.random.default_rng(seed)
    width, height = rng.integers(28, 68, size=2)
    return Image.fromarray(rng.integers(0, 256, size=(height, width, 3), dtype=np.uint8))


def message(role: str, text: str) -> dict[str, Any]:
    """A turn; each "<image>" in the text is a picture, the rest are its words."""
    content: list[dict[str, str]] = []
    for number, words in enumerate(text.split(IMAGE)):
        if number:
            content.append({"type": "image"})
        if words:
            content.append({"type": "text", "text": words})
    return {"role": role, "content": content}


def chat(*turns: str, seed: int = 0) -> Conversation:
    """A conversation of user and assistant in turn, with seeded pictures where "<image>" stands."""
    from lifelong.models.encode import Conversation

    roles = ("user", "assistant")
    messages = [message(roles[position % 2], turn) for position, turn in enumerate(turns)]
    count = sum(turn.count(IMAGE) for turn in turns)
    return Conversation(messages, [picture(100 * seed + number) for number in range(count)])


def mixed() -> list[Conversation]:
    """Sixteen conversations: none, one and two pictures, one to three turns, scripts, lengths."""
    words = [
        "red",
        "синий круг",
        "这是一只鸟",
        "yes, a blue circle on green",
        "नहीं",
        "[0.12, 0.34]",
        "🙂",
        "no",
    ]
    chats = []
    for seed, answer in enumerate(words):
        chats += [
            chat(f"{IMAGE}what color is the circle? {'please ' * seed}", answer, seed=seed),
            chat("say it", answer, seed=seed)
            if seed % 2
            else chat(
                f"{IMAGE}and {IMAGE}?", answer, f"what about {answer}?", "A" * (seed + 1), seed=seed + 50
            ),
        ]
    return chats


@pytest.fixture(scope="session")
def model_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The tiny models, saved as folders, by family."""
    import torch

    from tests.tiny_models import build

    torch.set_num_threads(1)
    return {family: build(family, tmp_path_factory.mktemp(family)) for family in FAMILIES}


Loader = Callable[..., "VisionLanguageModel"]


@pytest.fixture(scope="session")
def load_tiny(model_folders: dict[str, Path]) -> Loader:
    """Loads a family's model anew: (family, seed=0, gradient_checkpointing=False, dtype="auto", **lora fields)."""
    from lifelong.config import LoraConfig, ModelConfig
    from lifelong.models.load import load

    def load_one(
        family: str, seed: int = 0, gradient_checkpointing: bool = False, dtype: Any = "auto", **lora: Any
    ) -> VisionLanguageModel:
        path = str(model_folders[family])
        config = ModelConfig(
            path=path, device="cpu", dtype=dtype, gradient_checkpointing=gradient_checkpointing
        )
        vlm = load(config, LoraConfig(**{"rank": 4, "alpha": 8, **lora}), seed)
        vlm.model.eval()
        return vlm

    return load_one


@pytest.fixture(scope="session", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="session")
def vlm(family: str, load_tiny: Loader) -> Iterator[VisionLanguageModel]:
    """A family's model with an adapter that does something. Shared by tests: none may change its weights."""
    vlm = load_tiny(family)
    disturb(vlm)
    before = {name: weight.clone() for name, weight in vlm.model.state_dict().items()}
    yield vlm
    for name, weight in vlm.model.state_dict().items():
        assert weight.equal(before[name]), f"a test has changed {name} of the shared model"


def disturb(vlm: VisionLanguageModel, seed: int = 1) -> None:
    """Give every B of the adapter, which starts as zero, seeded values as large as A's."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    for name, weight in vlm.model.named_parameters():
        if "lora_B" in name:
            weight.data.copy_(torch.randn(weight.shape, generator=generator) * 0.1)


Gradients = dict[str, "torch.Tensor"]


def one_at_a_time(
    vlm: VisionLanguageModel, conversations: list[Conversation], layers: list[int]
) -> Gradients:
    """Gradients of LoRA parameters by plain autograd of the model's own loss: {"layer.module.A": (b, size)}."""
    import torch

    parameters = {
        f"{n}.{name}.{half}": getattr(module, f"lora_{half}")["default"].weight
        for n in layers
        for name, module in vlm.adapted(n).items()
        for half in "AB"
    }
    rows: dict[str, list[torch.Tensor]] = {name: [] for name in parameters}
    for conversation in conversations:
        batch = vlm.encoder.training([conversation])
        loss = vlm.model(**batch.inputs, labels=batch.labels()).loss
        gradients = torch.autograd.grad(loss, list(parameters.values()))
        for name, gradient in zip(parameters, gradients, strict=True):
            rows[name].append(gradient.flatten())
    return {name: torch.stack(gradients) for name, gradients in rows.items()}


def assert_close(actual: Any, expected: Any, relative: float) -> None:
    """Every row of `actual` differs from its row of `expected` by at most `relative` times that row's length."""
    actual, expected = (np.atleast_1d(np.asarray(values, dtype=np.float64)) for values in (actual, expected))
    assert actual.shape == expected.shape
    rows = (len(expected), -1)
    error = np.linalg.norm((actual - expected).reshape(rows), axis=1)
    length = np.linalg.norm(expected.reshape(rows), axis=1)
    worst = int(np.argmax(error - relative * length))
    assert (error <= relative * length).all(), (
        f"row {worst} differs by {error[worst]:.3g}, its length is {length[worst]:.3g}"
    )


@pytest.fixture(scope="session")
def encoder_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny CLIP and a tiny SigLIP, saved as folders, by kind."""
    from tests.tiny_encoders import FAMILIES, build

    return {kind: build(kind, tmp_path_factory.mktemp(kind)) for kind in FAMILIES}
