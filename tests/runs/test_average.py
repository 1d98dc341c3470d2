"""The mean of the adapters before and after a timestep is what it keeps (start average)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from lifelong import Run
from lifelong.training.average import averaged
from tests.runs.small import write_stream

WEIGHTS = "adapter_model.safetensors"


@pytest.fixture(scope="module")
def two_datasets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_stream(tmp_path_factory.mktemp("two"), names=("easyvqa", "tux_caption"), rows=16, evals=2)


def adapters(run: Run) -> list[Path]:
    with run.reading() as stores:
        return [stores.ledger.file(timestep, "adapter") for timestep in (0, 1, 2)]


def test_a_timestep_keeps_the_mean_of_what_it_started_from_and_what_it_trained(
    two_datasets: Path, new_run: Callable[..., Run]
) -> None:
    runs = {}
    for start in ("continue", "average[share=0.75]"):
        runs[start] = new_run(start[:8], recipe={"recipe": "random", "start": start}, train={"budget": 5})
        runs[start].run_stream(two_datasets)
    went_on, mean = (adapters(run) for run in runs.values())
    # The first timestep keeps what it trained: an untrained adapter has no part in the mean.
    assert [folder.name for folder in mean[:2]] == [folder.name for folder in went_on[:2]]
    before, trained, kept = (load_file(folder / WEIGHTS) for folder in (mean[1], went_on[2], mean[2]))
    assert list(kept) == list(trained)
    assert any(not torch.equal(before[name], trained[name]) for name in trained)
    for name, weight in kept.items():
        assert torch.equal(weight, before[name].lerp(trained[name], 0.75)), name
    assert len(list((runs["average[share=0.75]"].root / "checkpoints").iterdir())) == 3
    with runs["average[share=0.75]"].reading() as stores:
        assert [stores.ledger.phase(timestep, "train").result["weight"] for timestep in (1, 2)] == [1, 0.75]


def test_the_mean_keeps_data_types_and_all_else_that_is_in_the_folder(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    weights = {
        "before": {"half": torch.tensor([1.0, 2.0], dtype=torch.bfloat16), "seen": torch.tensor(3)},
        "after": {"half": torch.tensor([2.0, 4.0], dtype=torch.bfloat16), "seen": torch.tensor(5)},
    }
    for name, tensors in weights.items():
        (tmp_path / name).mkdir()
        save_file(tensors, tmp_path / name / WEIGHTS, {"format": "pt"})
        (tmp_path / name / "adapter_config.json").write_text(name, encoding="ascii")
    out = tmp_path / "out"
    out.mkdir()
    averaged(tmp_path / "before", tmp_path / "after", 0.25)(out)
    assert (out / "adapter_config.json").read_text(encoding="ascii") == "after"
    with safe_open(out / WEIGHTS, framework="pt") as file:
        assert file.metadata() == {"format": "pt"}
        assert torch.equal(file.get_tensor("half"), torch.tensor([1.25, 2.5], dtype=torch.bfloat16))
        assert torch.equal(file.get_tensor("seen"), torch.tensor(5))
