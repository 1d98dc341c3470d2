"""What is saved of an adapter loads in peft, and merged into its model in transformers, with the same logits."""

from __future__ import annotations

from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoModelForImageTextToText

from lifelong.config import ModelConfig
from lifelong.export.merge import write_merged
from lifelong.models.load import VisionLanguageModel
from lifelong.models.processors import load_processor
from tests.conftest import IMAGE, assert_close, chat

EPSILON = torch.finfo(torch.float32).eps


def test_base_and_adapter_and_merged_model_say_the_same(
    family: str, vlm: VisionLanguageModel, model_folders: dict[str, Path], tmp_path: Path
) -> None:
    vlm.save_adapter(tmp_path / "adapter")
    base = model_folders[family]
    write_merged(ModelConfig(path=str(base), device="cpu"), tmp_path / "adapter", tmp_path / "merged")
    inputs = vlm.encoder.training([chat(f"{IMAGE}what is it?", "a bird"), chat("say it", "no")]).inputs
    adapted = PeftModel.from_pretrained(
        AutoModelForImageTextToText.from_pretrained(base), tmp_path / "adapter"
    )
    merged = AutoModelForImageTextToText.from_pretrained(tmp_path / "merged")
    plain = AutoModelForImageTextToText.from_pretrained(base)
    with torch.no_grad():
        said = [model.eval()(**inputs).logits.flatten(0, 1) for model in (vlm.model, adapted, merged, plain)]
    assert torch.equal(said[1], said[0])
    # W + BA is rounded once more than Wx + B(Ax), in each of the three layers' modules.
    assert_close(said[2], said[0], 50 * EPSILON)
    assert (said[3] - said[0]).norm() > 1e-3 * said[0].norm()
    assert merged.config.to_dict().get("use_cache", True)
    before, after = load_processor(str(base)), load_processor(str(tmp_path / "merged"))
    assert after.chat_template == before.chat_template
    turns = chat(f"{IMAGE}what is it?", "a bird").messages
    shown = [processor.apply_chat_template(turns, tokenize=False) for processor in (before, after)]
    assert shown[0] == shown[1]
