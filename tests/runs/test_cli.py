"""The command line: help, exit codes, output that others parse, and what each command leaves."""

from __future__ import annotations

import io
import json
import sys
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from PIL import Image as PillowImage

from lifelong import Run
from lifelong.cli import app, invoke, main
from lifelong.cli.options import print_json
from lifelong.config import RunConfig, read_config
from lifelong.export.samples import FORMATS
from lifelong.formats import open_dataset
from tests.runs.small import NAMES, decisions, decisions_path, entry
from tests.streams import stream_path

COMMANDS = typer.main.get_command(app).commands
OUT = {"parquet": "out.parquet", "trl": "trl.parquet", "webdataset": "shards"}
Captured = pytest.CaptureFixture[str]


def output(capsys: Captured, *arguments: object, code: int = 0) -> str:
    """Standard output of a command that ends with `code`."""
    capsys.readouterr()
    assert invoke([str(each) for each in arguments]) == code, capsys.readouterr().err
    return capsys.readouterr().out


def complaint(capsys: Captured, *arguments: object, code: int) -> str:
    """Standard error of a command that ends with `code`."""
    capsys.readouterr()
    assert invoke([str(each) for each in arguments]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Traceback" not in captured.err
    return captured.err


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_and_every_option_has_help(command: str, capsys: Captured) -> None:
    text = output(capsys, command, "--help")
    assert COMMANDS[command].help.splitlines()[0] in " ".join(text.split())
    for parameter in COMMANDS[command].params:
        if parameter.param_type_name == "option":
            assert getattr(parameter, "help", None), f"{command} {parameter.opts}"
            assert parameter.opts[0] in text


def test_the_help_names_every_command(capsys: Captured) -> None:
    text = output(capsys, "--help")
    assert all(f"  {command} " in text for command in COMMANDS)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["nosuch"], 2, "No such command"),
        (["status"], 2, "Missing argument"),
        (["status", "--nosuch", "x"], 2, "No such option"),
        (["methods", "--recipe", "adapt-in"], 2, "did you mean 'adapt-inf'?"),
        (
            ["init", "{tmp}/a", "--recipe", "nosuch"],
            2,
            "unknown word in recipes 'nosuch'. Known: adapt-average,",
        ),
        (["init", "{tmp}/b", "--set", "train.epoch=2"], 2, "train.epoch: no such field"),
        (["init", "{tmp}/c", "--set", "train.epochs"], 2, "write FIELD=VALUE"),
        (["init", "{tmp}/d", "--set", "model.path=[a"], 2, "--set model.path=[a: no value in YAML (expected"),
        (["init", "{tmp}/e", "--set", "name=2026-13-01"], 2, "no value in YAML (month must be in 1..12)"),
        (
            ["select", "{data}", "--method", "random", "--out", "{tmp}/o", "--set", "recipe.sample=top"],
            2,
            "--set recipe.sample=top: recipe is 'random', which has no fields; set it whole, as in 'recipe={",
        ),
        (
            ["select", "{data}", "--method", "random", "--out", "{tmp}/o", "--budget", "%"],
            2,
            "error: the command line: train.budget: '%' is not a budget: write a number of samples (2000) or a share",
        ),
        (
            ["select", "{data}", "--method", "random", "--out", "{tmp}/o", "--budget", "0x10"],
            2,
            "not a budget",
        ),
        (
            ["select", "{data}", "--method", "el2n", "--out", "{tmp}/o", "--model", "{tmp}/%: 🙂"],
            1,
            "there is no such folder; put it back, or say where it lies (--model, or model.path)",
        ),
        (["select", "{data}", "--method", "random", "--out", "{tmp}/o", "--budget", "0%"], 2, "not a budget"),
        (
            ["select", "{data}", "--method", "random", "--out", "{tmp}/o", "--budget", "9" * 5000],
            2,
            "not a budget",
        ),
        (["select", "{data}", "--method", "el2n", "--out", "{tmp}/o"], 2, "pass --model"),
        (["select", "{data}", "--method", "random", "--out", "{tmp}/o", "--budget", "97"], 1, "only 96"),
        (["select", "{tmp}/none.json", "--method", "random", "--out", "{tmp}/o"], 1, "does not exist"),
        (["check", "{tmp}/none.json"], 1, "does not exist"),
        (
            ["export", "{run}", "--out", "{tmp}/o", "--format", "nosuch"],
            1,
            'cannot write the format "nosuch"',
        ),
        (["export", "{run}", "--out", "{tmp}/o", "--timestep", "9"], 1, "timestep 9 has no selection"),
        (["export", "{run}", "--out", "{tmp}"], 1, "it is there and no file; name another"),
        (["export", "{run}", "--out", "{data}/o", "--format", "webdataset"], 1, "/o: File exists; name"),
        (["card", "{run}", "--out", "{tmp}"], 1, "{tmp}: Is a directory"),
        (["check", "{tmp}/" + 300 * "x"], 1, "File name too long"),
        (["init", "{data}"], 2, "is a file; name a new folder"),
        (["run", "{run}", "{tmp}/none.yaml"], 1, "cannot read the stream"),
        (["why", "{run}", "nosuch"], 1, "nothing on record is named 'nosuch'"),
        (["status", "{tmp}"], 3, "holds no run"),
        (["curves", "{tmp}"], 3, "holds no run"),
    ],
    ids=lambda value: " ".join(value[:1]) if isinstance(value, list) else None,
)
def test_an_error_says_who_is_at_fault(
    arguments: list[str], code: int, words: str, finished: Run, tmp_path: Path, capsys: Captured
) -> None:
    places = {"{tmp}": str(tmp_path), "{run}": str(finished.root), "{data}": entry("easyvqa")["train"]}
    for name, place in places.items():
        arguments = [argument.replace(name, place) for argument in arguments]
        words = words.replace(name, place)
    if arguments[0] == "select":
        arguments += ["--images", entry("easyvqa")["images"]]
    assert words in complaint(capsys, *arguments, code=code)
    assert list(tmp_path.iterdir()) == []


def test_status(finished: Run, capsys: Captured) -> None:
    found = json.loads(output(capsys, "status", finished.root, "--json"))
    assert {"run_id", "timestep", "phase", "pool", "seconds", "bytes"} <= found.keys()
    assert {"arrived", "live", "selected", "pruned", "rejected"} <= found["pool"].keys()
    assert (found["timestep"], found["phase"]) == (3, None)
    assert list(found["seconds"]) == [
        "ingest",
        "measure",
        "cluster",
        "route",
        "select",
        "train",
        "evaluate",
        "prune",
    ]
    assert found["bytes"] > 100_000
    assert found["bytes"] == sum(path.stat().st_size for path in finished.root.rglob("*") if path.is_file())
    with finished.reading() as stores:
        shards = stores.ledger.shards(2)
        samples = stores.ledger.phase(2, "measure").result["measured"]
    each = found["bytes_per_sample"][1]
    assert (each["timestep"], each["samples"]) == (2, samples)
    assert each["signals"] == round(sum(shard.bytes for shard in shards) / samples, 1)
    told = output(capsys, "status", finished.root)
    assert "timestep 3, finished" in told
    assert f"{samples} {each['signals']:10,.0f} {each['tables']:9,.0f}" in told


def test_curves(finished: Run, capsys: Captured, tmp_path: Path) -> None:
    found = json.loads(output(capsys, "curves", finished.root, "--json"))
    keys = (
        "skills timesteps R stderr n average_accuracy forgetting backward_transfer forward_transfer formulas"
    )
    assert set(keys.split()) <= found.keys()
    assert found["skills"] == ["vqa", "captioning", "grounding"]
    assert found["timesteps"] == [0, 1, 2, 3]
    with finished.reading() as stores:
        cells = {(cell.timestep, cell.skill): cell for cell in stores.ledger.evaluations()}
    for t, row in enumerate(found["R"]):
        assert row == [cells[t, skill].value for skill in found["skills"]]
        assert found["stderr"][t] == [cells[t, skill].stderr for skill in found["skills"]]
    table = output(capsys, "curves", finished.root, "--csv").splitlines()
    assert len(table) == 1 + len(cells)
    assert "vqa" in output(capsys, "curves", finished.root)
    output(capsys, "curves", finished.root, "--plot", tmp_path / "curves.svg")
    assert (tmp_path / "curves.svg").read_text().lstrip().startswith("<?xml")


def test_check_tells_of_every_row(capsys: Captured) -> None:
    hostile = stream_path("hostile")
    command = ("check", hostile / "hostile.json", "--images", hostile / "images")
    rows = [json.loads(line) for line in output(capsys, *command, "--json", code=1).splitlines()]
    assert [row["row"] for row in rows] == list(range(60))
    assert all(set(row) == {"file", "row", "outcome", "reason", "fix"} for row in rows)
    assert Counter(row["outcome"] for row in rows) == {"accepted": 31, "rejected": 28, "duplicate": 1}
    text = output(capsys, *command, code=1)
    assert text.splitlines()[-1] == "60 rows: 31 accepted, 28 rejected, 1 duplicates"
    assert 'hostile.json row 13: rejected: image "p30.png" not found under images/' in text


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_no_text_of_a_stranger_harms_the_output(
    encoding: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A terminal would act on escapes; an output that is not UTF-8 has no é."""
    (tmp_path / "\x1b[2Jé.json").write_text("[{}]", encoding="utf-8")
    bytes_out = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(bytes_out, encoding=encoding))
    assert invoke(["check", str(tmp_path / "\x1b[2Jé.json")]) == 1
    told = bytes_out.getvalue().decode(encoding)
    assert told.startswith("\\x1b[2Jé.json row 0".replace("é", "\\xe9" if encoding == "ascii" else "é"))
    print_json({"é": "🙂"})
    assert json.loads(bytes_out.getvalue()[len(told.encode(encoding)) :]) == {"é": "🙂"}


def test_where_an_error_comes_from_is_shown_to_those_who_ask(
    tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = tmp_path / "nowhere"
    [line] = complaint(capsys, "status", missing, code=3).splitlines()
    monkeypatch.setenv("LIFELONG_TRACEBACK", "1")
    assert invoke(["status", str(missing)]) == 3
    told = capsys.readouterr().err.splitlines()
    assert told[0].startswith("Traceback")
    assert told[-1] == line


def test_what_pillow_thinks_of_a_picture_is_not_told(tmp_path: Path, capsys: Captured) -> None:
    odd = b"Exif\0\0MM\0*" + b"\xff" * 200
    PillowImage.new("RGB", (8, 8)).save(tmp_path / "a.jpg", exif=odd)
    turns = [{"from": "human", "value": "<image>hi"}, {"from": "gpt", "value": "yes"}]
    (tmp_path / "a.json").write_text(json.dumps([{"id": 1, "image": "a.jpg", "conversations": turns}]))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        with pytest.raises(SystemExit, match="0"):
            main(["check", str(tmp_path / "a.json")])
    assert told == []
    assert capsys.readouterr().err == ""


def test_check_of_a_sound_dataset(capsys: Captured) -> None:
    found = entry("easyvqa")
    text = output(capsys, "check", found["train"], "--images", found["images"])
    assert text == "96 rows: 96 accepted, 0 rejected, 0 duplicates\n"


def test_methods(capsys: Captured) -> None:
    found = json.loads(output(capsys, "methods", "--json"))
    recipes = {recipe["name"]: recipe for recipe in found["recipes"]}
    assert {"adapt-inf", "random", "sequential", "multitask", "random-replay"} <= recipes.keys()
    assert {"name", "summary", "paper", "passes", "sentence"} <= recipes["adapt-inf"].keys()
    assert {"el2n", "perplexity", "grounding"} <= {scorer["name"] for scorer in found["scorers"]}
    one = json.loads(output(capsys, "methods", "--recipe", "adapt-inf", "--json"))
    assert (one["name"], one["sample"], one["start"]) == ("adapt-inf", "ccs", "continue")
    assert "adapt-inf" in output(capsys, "methods")
    assert "sample: ccs" in output(capsys, "methods", "--recipe", "adapt-inf")


def test_init_writes_a_commented_configuration_that_reads_back(tmp_path: Path, capsys: Captured) -> None:
    run = tmp_path / "run"
    output(
        capsys,
        "init",
        run,
        "--model",
        "some/model",
        "--set",
        "train.epochs=3",
        "--set",
        "lora.targets=[q_proj]",
    )
    text = (run / "config.yaml").read_text(encoding="utf-8")
    config = read_config(run / "config.yaml")
    assert (config.model.path, config.train.epochs, config.lora.targets) == ("some/model", 3, ("q_proj",))
    assert config.recipe == "adapt-average"
    unchanged = RunConfig.model_validate(yaml.safe_load(text)).model_dump()
    assert unchanged["evaluate"] == RunConfig().model_dump()["evaluate"]
    for before, line in zip(text.splitlines(), text.splitlines()[1:], strict=False):
        if ":" in line and not line.lstrip().startswith("#"):
            assert before.lstrip().startswith("# "), f"nothing explains {line!r}"
    assert "is not empty" in complaint(capsys, "init", run, code=2)


def test_init_takes_a_recipe_of_one_s_own(tmp_path: Path, capsys: Captured) -> None:
    recipe = {"recipe": "adapt-inf", "sample": "top"}
    output(capsys, "init", tmp_path / "run", "--set", f"recipe={json.dumps(recipe)}")
    assert read_config(tmp_path / "run" / "config.yaml").recipe == recipe


def test_feed_tells_where_the_run_stands(copied: Run, capsys: Captured) -> None:
    found = entry("bbh_lang")
    err = complaint(
        capsys, "feed", copied.root, found["train"], "--eval", found["eval"], "--skill", "words", code=0
    )
    assert err.splitlines()[0] == "timestep 4: bbh_lang (words)"
    assert "timestep 4 is finished" in err.splitlines()[-1]
    assert copied.skill_matrix().skills[-1] == "words"


@pytest.mark.parametrize("timestep", [None, 2])
@pytest.mark.parametrize("format", FORMATS)
def test_what_is_exported_is_accepted(
    format: str, timestep: int | None, finished: Run, tmp_path: Path, capsys: Captured
) -> None:
    out = tmp_path / OUT.get(format, "out.json")
    which = [] if timestep is None else ["--timestep", timestep]
    output(capsys, "export", finished.root, "--out", out, "--format", format, *which)
    with finished.reading() as stores:
        ordinals = stores.pool.arrays()["ordinal"] if timestep is None else stores.ledger.selection(timestep)
        expected = [row.sample_id for row in stores.pool.rows(ordinals)]
    dataset = open_dataset(out)
    assert dataset.format == {"trl": "parquet"}.get(format, format)
    output(capsys, "check", out)
    rows = list(dataset.rows())
    assert [row.outcome for row in rows] == ["accepted"] * len(rows)
    assert [row.sample.sample_id for row in rows] == expected


def test_llama_factory_finds_every_export_of_a_folder(
    finished: Run, tmp_path: Path, capsys: Captured
) -> None:
    info = tmp_path / "dataset_info.json"
    info.write_text(json.dumps({"theirs": {"file_name": "theirs.json"}}))
    for name in ("pool", "pool", "again"):
        output(capsys, "export", finished.root, "--out", tmp_path / f"{name}.json", "--format", "sharegpt")
    known = json.loads(info.read_text())
    assert list(known) == ["theirs", "pool", "again"]
    entry = known["pool"]
    row = json.loads((tmp_path / entry["file_name"]).read_text())[0]
    turns, tags = row[entry["columns"]["messages"]], entry["tags"]
    assert {turn[tags["role_tag"]] for turn in turns} <= {tags["user_tag"], tags["assistant_tag"]}
    assert sum(turn[tags["content_tag"]].count("<image>") for turn in turns) == len(row["images"])
    assert all((tmp_path / name).is_file() for name in row[entry["columns"]["images"]])
    info.write_text("[]")
    words = complaint(
        capsys, "export", finished.root, "--out", tmp_path / "pool.json", "--format", "sharegpt", code=1
    )
    assert "is not a JSON object by dataset names" in words


def samples(run: Run, timestep: int, **wanted: Any) -> list[dict[str, Any]]:
    return [row for row in decisions(run, timestep) if wanted.items() <= row.items()]


def test_why_a_sample_was_selected(finished: Run, capsys: Captured) -> None:
    row = samples(finished, 2, selected=True, dataset=NAMES[1])[0]
    found = json.loads(output(capsys, "why", finished.root, row["sample_id"][:12], "--json"))
    assert found.keys() == {"samples", "refused"}
    (sample,) = found["samples"]
    assert sample["sample_id"] == row["sample_id"]
    decision = sample["decisions"][0]
    assert (decision["timestep"], decision["rank"]) == (2, row["rank"])
    assert decision["reason"] == row["reason"]
    text = output(capsys, "why", finished.root, sample["source_id"])
    assert row["reason"] in text
    assert "score_" not in text
    assert f"{row['scorer']} {row['score']:.4g}" in text


def test_why_a_sample_was_pruned(finished: Run, capsys: Captured) -> None:
    row = samples(finished, 1, pruned=True)[0]
    found = json.loads(output(capsys, "why", finished.root, row["sample_id"], "--json"))
    (sample,) = found["samples"]
    assert sample["status"] == "pruned"
    (decision,) = sample["decisions"]
    assert decision["neighbour"] == row["neighbour"]
    assert f"to {row['neighbour']}" in output(capsys, "why", finished.root, row["sample_id"])


def test_why_a_row_was_refused(copied: Run, capsys: Captured) -> None:
    hostile = stream_path("hostile")
    copied.feed(hostile / "hostile.json", images=hostile / "images")
    found = json.loads(output(capsys, "why", copied.root, "hostile.json:13", "--json"))
    assert found["samples"] == []
    (refusal,) = found["refused"]
    assert (refusal["row"], refusal["outcome"], refusal["timestep"]) == (13, "rejected", 4)
    text = output(capsys, "why", copied.root, "hostile.json:13")
    assert text.startswith('refused: hostile, hostile.json row 13 (h13): image "p30.png" not found')


def test_fsck_finds_the_file_that_was_altered(copied: Run, capsys: Captured) -> None:
    output(capsys, "fsck", copied.root)
    path = decisions_path(copied, 2).resolve()
    committed = next(path.parent.glob("decisions-*.parquet"))
    data = bytearray(committed.read_bytes())
    data[len(data) // 2] ^= 1
    committed.unlink()
    committed.write_bytes(data)
    assert invoke(["fsck", str(copied.root)]) == 3
    captured = capsys.readouterr()
    assert f"damaged: {committed} (decisions of timestep 2) was altered" in captured.out
    assert "1 files of" in captured.err


def test_a_run_whose_adapter_is_gone_is_damaged(copied: Run, capsys: Captured) -> None:
    (weights,) = copied.root.glob("checkpoints/0003-*/adapter_model.safetensors")
    weights.unlink()
    assert "restore" in complaint(capsys, "digest", copied.root, code=3)
    found = entry("bbh_lang")
    assert "0003-" in complaint(capsys, "feed", copied.root, found["train"], "--quiet", code=3)


def test_the_digest_is_that_of_the_run(finished: Run, copied: Run, capsys: Captured) -> None:
    assert output(capsys, "digest", copied.root) == f"{finished.digest()}\n"
