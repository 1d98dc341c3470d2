"""Measuring rows of a real pool: faults are told, batch mates are not touched by them."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lifelong.errors import ModelError
from lifelong.loader import ConversationLoader
from lifelong.measure.passes import AnswerPass, Arrays, BlindPass, ReadPass
from lifelong.measure.pool import Measured, faults_in, measure
from lifelong.measure.projectors import CountSketch
from lifelong.models.encode import Conversation
from lifelong.models.load import VisionLanguageModel
from stores.database import open_database, transaction
from stores.errors import DamagedError
from stores.media import Media
from stores.pool import Arrival, Pool, PoolRow
from tests.conftest import IMAGE, assert_close, chat, message, mixed

ALL = frozenset({"nll", "el2n", "entropy", "gradient", "gradient_norm", "hidden", "nll_blind"})
IMAGE_TOKEN = {"llava": "<image>", "qwen2_5_vl": "<|image_pad|>", "idefics3": "<image>"}


@pytest.fixture
def stored(tmp_path: Path) -> Iterator[Any]:
    """Puts conversations into a pool with its media; gives their rows and a loader."""
    db = open_database(tmp_path / "run.db")
    pool, media = Pool(db), Media(tmp_path, db)

    def store(conversations: Sequence[Conversation]) -> tuple[list[PoolRow], ConversationLoader]:
        arrivals = []
        with transaction(db), media.writer(1) as writer:
            for number, conversation in enumerate(conversations):
                hashes = []
                for image in conversation.images:
                    buffer = io.BytesIO()
                    image.save(buffer, "PNG")
                    hashes.append(hashlib.sha256(buffer.getvalue()).hexdigest())
                    writer.add(buffer.getvalue(), hashes[-1], *image.size)
                texts = [part.get("text", "") for m in conversation.messages for part in m["content"]]
                messages = list(conversation.messages)
                arrivals.append(
                    Arrival(f"{number:032x}", None, "a.json", number, messages, hashes, len("".join(texts)))
                )
            writer.close_pack()
            media.record(writer.rows)
            pool.add(1, "a", "vqa", arrivals)
        return list(pool.rows(range(len(arrivals)))), ConversationLoader(pool, media)

    yield store
    db.close()


def test_a_fault_of_the_model_ends_measuring_at_the_first_batch(stored: Any) -> None:
    asked = []

    def broken(conversations: Sequence[Conversation]) -> Arrays:
        asked.append(len(conversations))
        raise ModelError("no attention was found")

    rows, loader = stored([chat("what?", word) for word in ("blue", "red", "green")])
    with pytest.raises(ModelError, match="no attention was found"):
        measure(rows, loader, [broken], 2, frozenset({"nll"}))
    assert asked == [2]


def everything(vlm: VisionLanguageModel) -> list[AnswerPass | BlindPass]:
    return [AnswerPass(vlm, (1,), CountSketch(32, 0), hidden=1), BlindPass(vlm)]


def assert_equal(found: Measured, expected: Measured, rows: Sequence[int]) -> None:
    """`found` has what `expected` has for these of its rows."""
    assert found.ordinals.tolist() == expected.ordinals[list(rows)].tolist()
    assert found.arrays.keys() == expected.arrays.keys()
    for name, values in found.arrays.items():
        there = np.isfinite(values)
        wanted = expected.arrays[name][list(rows)]
        assert (there == np.isfinite(wanted)).all()
        assert_close(np.where(there, values, 0), np.where(there, wanted, 0), 1e-4)


def test_signals_are_those_of_the_conversations_in_order(vlm: VisionLanguageModel, stored: Any) -> None:
    rows, loader = stored(mixed())
    found = measure(rows, loader, everything(vlm), 5, ALL)
    assert found.faults == {}
    assert found.ordinals.tolist() == list(range(16))
    assert set(found.arrays) == ALL | {"answer_tokens", "tokens"}
    expected: Arrays = {}
    for each in everything(vlm):
        expected |= each(mixed())
    assert_equal(found, Measured(np.arange(16), expected), range(16))


def test_results_do_not_depend_on_the_batch_size(vlm: VisionLanguageModel, stored: Any) -> None:
    rows, loader = stored(mixed())
    alone = measure(rows, loader, everything(vlm), 1, ALL)
    for batch_size in (3, 16, 100):
        assert_equal(measure(rows, loader, everything(vlm), batch_size, ALL), alone, range(16))
    backwards = measure(rows[::-1], loader, everything(vlm), 4, ALL)
    assert_equal(backwards, alone, range(15, -1, -1))


def test_a_sample_that_the_processor_refuses_is_a_fault(
    family: str, vlm: VisionLanguageModel, stored: Any
) -> None:
    token = IMAGE_TOKEN[family]
    good = mixed()[:7]
    refused = Conversation(
        [
            {"role": "user", "content": [{"type": "text", "text": f"a {token}"}]},
            message("assistant", "no"),
        ]
    )
    too_long = chat("why? " * 3000, "because")
    unanswered = [Conversation([message("user", text)]) for text in ("what?", "and?")]
    rows, loader = stored([*good[:3], refused, *good[3:], too_long, *unanswered])
    kept = [0, 1, 2, 4, 5, 6, 7]
    clean = measure([rows[i] for i in kept], loader, everything(vlm), 4, ALL)
    reported: list[int] = []
    for batch_size in (1, 4, 16):
        reported.clear()
        found = measure(rows, loader, everything(vlm), batch_size, ALL, reported.append)
        assert found.faults.keys() == {3, 8, 9, 10}
        assert f"turn 1 (user) holds {token!r}" in found.faults[3]
        assert "longer than the model's 2048" in found.faults[8]
        assert_equal(found, clean, range(7))
        assert sum(reported) == len(rows)


def test_a_model_that_gives_no_finite_value_is_a_fault(stored: Any) -> None:
    rows, loader = stored([chat("what?", "this"), chat("what?", "that"), chat(f"{IMAGE}what?", "it")])

    def overflow(conversations: Sequence[Conversation]) -> Arrays:
        values = [np.inf if "that" in str(each.messages) else 1.0 for each in conversations]
        return {"el2n": np.array(values, np.float32), "nll_blind": np.full(len(values), np.nan, np.float32)}

    found = measure(rows, loader, [overflow], 2, ALL)
    assert found.faults == {1: "the model gives it no finite el2n"}
    assert found.ordinals.tolist() == [0, 2]


def test_only_the_signals_wanted_are_kept(vlm: VisionLanguageModel, stored: Any) -> None:
    rows, loader = stored(mixed()[:3])
    found = measure(rows, loader, everything(vlm), 4, frozenset({"el2n", "nll_blind"}))
    assert set(found.arrays) == {"el2n", "nll_blind", "answer_tokens", "tokens"}
    read = measure(rows, loader, [ReadPass(vlm)], 4, frozenset())
    assert set(read.arrays) == {"answer_tokens", "tokens"}


def test_nothing_measured_is_no_row(vlm: VisionLanguageModel, stored: Any) -> None:
    rows, loader = stored([Conversation([message("user", "what?")])])
    found = measure(rows, loader, everything(vlm), 4, ALL)
    assert (len(found.ordinals), found.arrays, len(found.faults)) == (0, {}, 1)
    empty = measure([], loader, everything(vlm), 4, ALL)
    assert (len(empty.ordinals), empty.arrays, empty.faults) == (0, {}, {})


def test_a_damaged_image_is_not_the_samples_fault(
    vlm: VisionLanguageModel, stored: Any, tmp_path: Path
) -> None:
    rows, loader = stored([chat(f"{IMAGE}what?", "this")])
    (pack,) = (tmp_path / "media").glob("*.bin")
    pack.write_bytes(bytes(len(pack.read_bytes())))
    with pytest.raises(DamagedError):
        measure(rows, loader, everything(vlm), 4, ALL)


def test_a_shard_holds_the_arrays_and_the_faults() -> None:
    arrays = {"el2n": np.ones(2, np.float64), "gradient": np.full((2, 3), 0.1, np.float32)}
    measured = Measured(np.array([4, 6]), arrays, {5: "ой: it cannot be read"})
    shard = measured.to_arrays("float16")
    assert shard["ordinal"].tolist() == [4, 6]
    assert (shard["el2n"].dtype, shard["gradient"].dtype) == (np.float32, np.float16)
    assert faults_in(shard["faults"]) == {5: "ой: it cannot be read"}


def test_what_half_precision_cannot_hold_is_kept_in_full() -> None:
    attended = np.array([[1.0, np.nan], [-7e4, 0.5]], np.float32)
    arrays = {"attended": attended, "hidden": attended / 10}
    shard = Measured(np.array([4, 6]), arrays).to_arrays("float16")
    np.testing.assert_array_equal(shard["attended"], attended)
    assert (shard["attended"].dtype, shard["hidden"].dtype) == (np.float32, np.float16)
    np.testing.assert_allclose(shard["hidden"], attended / 10, rtol=1e-3)
