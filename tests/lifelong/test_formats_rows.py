"""The rules for rows: shapes that are understood, and mutations that must never raise."""

from __future__ import annotations

import base64
import copy
import hashlib
import json
from pathlib import Path
from typing import Any

import datasets
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as PillowImage

from lifelong.formats import Limits, open_dataset
from lifelong.formats.check import check, summarise
from lifelong.formats.turns import to_text
from lifelong.samples import Row, content_id

IMAGE, TAG = {"type": "image"}, "<image>"


def text(value: str) -> dict[str, str]:
    return {"type": "text", "text": value}


def turns(question: Any, answer: Any = "yes") -> list[dict[str, Any]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def spoken(question: str) -> list[dict[str, str]]:
    return [{"from": "human", "value": question}, {"from": "gpt", "value": "yes"}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rows")
    for number, name in enumerate(("a.png", "b.png", "c.png")):
        PillowImage.new("RGB", (4, 4), (number, 0, 0)).save(folder / name)
    return folder


def read(folder: Path, rows: list[Any], format: str = "sharegpt", **options: Any) -> list[Row]:
    (folder / "rows.json").write_text(json.dumps(rows))
    return list(open_dataset(folder / "rows.json", format=format, **options).rows())


def read_one(folder: Path, row: Any, format: str = "sharegpt", **options: Any) -> Row:
    (row,) = read(folder, [row], format, **options)
    return row


@pytest.mark.parametrize(
    ("question", "parts"),
    [
        ("<image>\nwhat?", [IMAGE, text("what?")]),
        ("what?\n<image>", [text("what?"), IMAGE]),
        ("<image>what?", [IMAGE, text("what?")]),
        ("see <image> here", [text("see "), IMAGE, text(" here")]),
        ("<image>", [IMAGE]),
        ("<image>\n\nwhat?\n", [IMAGE, text("\nwhat?\n")]),
        ([IMAGE, text("a"), text("b")], [IMAGE, text("ab")]),
        ([{"type": "text", "text": "a", "index": None}, {**IMAGE, "index": 0}], [text("a"), IMAGE]),
    ],
)
def test_tags_become_parts(folder: Path, question: Any, parts: list[dict[str, str]]) -> None:
    row = read_one(folder, {"messages": turns(question), "images": ["a.png"]})
    assert row.sample is not None, row.reason
    assert row.sample.messages[0] == {"role": "user", "content": parts}
    again = read_one(folder, {"messages": turns(to_text(parts)), "images": ["a.png"]})
    assert again.sample.sample_id == row.sample.sample_id


@given(pieces=st.lists(st.just(TAG) | st.text("a\n <>", max_size=4), max_size=6))
def test_text_survives_the_way_through_parts(folder: Path, pieces: list[str]) -> None:
    question = "ask " + "".join(pieces)
    images = ["a.png"] * question.count(TAG)
    first = read_one(folder, {"messages": turns(question), "images": images}).sample
    again = read_one(folder, {"messages": turns(to_text(first.messages[0]["content"])), "images": images})
    assert again.sample.messages == first.messages
    assert again.sample.sample_id == first.sample_id


@pytest.mark.parametrize(
    "row",
    [
        {"conversations": spoken("<image>hi"), "image": "a.png"},
        {"messages": turns("<image>hi"), "images": ["a.png"], "id": 7},
        {"messages": turns("<image>hi"), "images": "a.png"},
        {"messages": turns([{**IMAGE, "image": "a.png"}, text("hi")], [text("yes")])},
        {"messages": turns([{**IMAGE, "path": "a.png", "text": None}, text("hi")])},
        {"messages": turns([{"type": "image_url", "image_url": {"url": "a.png"}}, text("hi")])},
        {"messages": turns([{"type": "image_url", "image_url": "a.png"}, text("hi")])},
        {"texts": [{"user": "hi", "assistant": "yes", "source": "x"}], "images": ["a.png"]},
        {"texts": [{"user": "<image>hi", "assistant": "yes"}], "images": ["a.png"]},
        {"prompt": turns("hi")[:1], "completion": turns("hi")[1:], "images": ["a.png"]},
        {"prompt": turns([IMAGE, text("hi")])[:1], "completion": turns("hi")[1:], "images": ["a.png"]},
        {"prompt": "hi", "completion": "yes", "image": "a.png"},
        {"question": "hi", "answer": "yes", "image": "a.png", "options": []},
        {
            "question": "hi",
            "answer": "yes",
            "image": "a.png",
            "options": "[]",
            "A": None,
            "choices": {"text": []},
        },
        {"question": "hi", "answer": "yes", "image": "a.png", "multiple_choice_answer": "yes"},
        {"query": "<image>hi", "response": "yes", "images": ["a.png"], "history": []},
        {"instruction": "hi", "input": "", "output": "yes", "image": "a.png"},
        {"question": "hi", "answer": "yes", "file_name": "a.png"},
        {"messages": turns("<image>hi"), "images": [], "image": "a.png"},
        {"messages": turns("<image>hi"), "images": ["a.png"], "image": "a.png", "file_name": "coco/a.png"},
        {"messages": turns("<image>hi"), "image": "a.png", "image_url": "https://x.org/a.png", "image_id": 7},
    ],
)
def test_every_spelling_gives_the_same_sample(folder: Path, row: dict[str, Any]) -> None:
    plain = read_one(folder, {"messages": turns("<image>hi"), "images": ["a.png"]})
    assert read_one(folder, row).sample.sample_id == plain.sample.sample_id


@pytest.mark.parametrize(
    "more",
    [
        {"image_id": "7", "image_width": 4, "url": "https://x.org/a.png"},
        {"image": ""},
        {"images": [], "image": None, "image_path": "", "img": [], "picture": "a cat"},
        {"scan": {"bytes": None, "path": None}},
    ],
)
def test_what_is_no_image_is_no_reason_to_refuse(folder: Path, more: dict[str, Any]) -> None:
    row = read_one(folder, {"messages": turns("hi <img>it</img>"), **more})
    assert row.sample is not None, row.reason
    assert row.sample.text_only


def test_images_in_columns_that_are_not_read_are_refused(tmp_path: Path) -> None:
    table = datasets.Dataset.from_dict(
        {"question": ["hi", "ho"], "answer": ["a", "b"], "page_1": [PillowImage.new("RGB", (4, 4)), None]},
        datasets.Features(
            question=datasets.Value("string"), answer=datasets.Value("string"), page_1=datasets.Image()
        ),
    )
    table.to_parquet(str(tmp_path / "rows.parquet"))
    table.save_to_disk(str(tmp_path / "saved"))
    for name in ("rows.parquet", "saved"):
        refused, accepted = open_dataset(tmp_path / name).rows()
        assert refused.reason == '"page_1" holds an image and is not read'
        assert accepted.outcome == "accepted"


@pytest.mark.parametrize("start", ["", "data:image/png;base64,", "data:image/png;name=a;base64,"])
def test_an_image_in_base64_is_that_in_a_file(folder: Path, start: str) -> None:
    data = start + base64.b64encode((folder / "a.png").read_bytes()).decode()
    plain = read_one(folder, {"messages": turns("<image>hi"), "images": ["a.png"]})
    for row in (
        {"messages": turns([{"type": "image_url", "image_url": {"url": data}}, text("hi")])},
        {"messages": turns([{**IMAGE, "image": data}, text("hi")])},
        {"messages": turns("<image>hi"), "image": data},
        {"messages": turns("<image>hi"), "images": [data]},
        {"messages": turns("<image>hi"), "images": ["file://a.png"]},
    ):
        within = read_one(folder, row)
        assert within.sample is not None, within.reason
        assert within.sample.sample_id == plain.sample.sample_id


def test_images_come_before_the_first_question_of_rounds(folder: Path) -> None:
    rounds = [{"user": "one", "assistant": "yes"}, {"user": "two", "assistant": "no"}]
    row = read_one(folder, {"texts": rounds, "images": ["a.png", "b.png"]})
    assert row.sample is not None, row.reason
    shown = [message["content"] for message in row.sample.messages]
    assert shown == [[IMAGE, IMAGE, text("one")], [text("yes")], [text("two")], [text("no")]]


@pytest.mark.parametrize("empty", ["", " \n", None, []])
def test_an_empty_system_turn_is_none(folder: Path, empty: Any) -> None:
    row = read_one(folder, {"messages": [{"role": "system", "content": empty}, *turns("hi")], "system": ""})
    assert row.sample is not None, row.reason
    assert [message["role"] for message in row.sample.messages] == ["user", "assistant"]
    assert (
        "empty but for its system turn"
        in read_one(folder, {"messages": [{"role": "system", "content": empty}]}).reason
    )


def test_the_input_of_an_instruction_comes_after_it(folder: Path) -> None:
    row = read_one(folder, {"instruction": "Name it.", "input": "a dog", "output": "dog"})
    assert row.sample.messages[0]["content"] == [text("Name it.\na dog")]


def test_system_turns_come_first(folder: Path) -> None:
    system = {"role": "system", "content": "be brief"}
    first = read_one(folder, {"messages": [system, *turns("hi")]})
    apart = read_one(folder, {"messages": turns("hi"), "system": "be brief"})
    assert first.sample.messages[0] == {"role": "system", "content": [text("be brief")]}
    prompted = read_one(folder, {"messages": turns("hi"), "system": " ", "system_prompt": "be brief"})
    assert first.sample.sample_id == apart.sample.sample_id == prompted.sample.sample_id
    assert (
        "turn 2 is by system where one by assistant"
        in read_one(folder, {"messages": [turns("hi")[0], system]}).reason
    )


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (3, "not an object but a value of type int"),
        (None, "not an object"),
        ({}, 'no "conversations"'),
        ({"messages": "hi"}, "empty or not a list"),
        ({"messages": ["hi"]}, "turn 1 is not an object"),
        (
            {"messages": turns("hi", "<image>"), "images": ["a.png"]},
            "turn 2 (assistant) holds an <image> tag",
        ),
        ({"messages": turns("hi", [IMAGE]), "images": ["a.png"]}, "part of type 'image'"),
        ({"messages": turns([{"type": "video"}])}, "part of type 'video'"),
        ({"messages": turns([text("<image>")]), "images": ["a.png"]}, "tag inside a text part"),
        ({"messages": turns([{**IMAGE, "index": 1}]), "images": ["a.png"]}, "image 1 where image 0 is due"),
        ({"messages": turns([{**IMAGE, "image": "a.png"}]), "images": ["a.png"]}, "both in the turns"),
        ({"messages": turns([{**IMAGE, "url": "https://x.org/a"}])}, "is a URL"),
        ({"messages": turns([{"type": "image_url", "image_url": {"url": "https://x.org/a"}}])}, "is a URL"),
        (
            {"messages": turns([{"type": "image_url", "image_url": "data:image/png;base64,A"}])},
            "no whole base64",
        ),
        ({"messages": turns([{"type": "image_url"}])}, "'None', which is no file name"),
        ({"texts": []}, "empty or not a list"),
        ({"texts": ["hi"]}, 'round 1 of "texts" has no "user" and "assistant"'),
        ({"texts": [{"user": "hi", "assistant": None}]}, "turn 2 (assistant) holds nothing"),
        ({"prompt": "hi"}, 'no "conversations"'),
        ({"prompt": "hi", "answers": ["yes"]}, 'no "conversations"'),
        (
            {"question": "hi", "answer": "A", "options": ["yes", "no"]},
            '"options" beside "question" is not read',
        ),
        ({"question": "hi", "answer": "A", "A": "yes", "B": "no"}, '"A" beside "question" is not read'),
        *(
            ({"question": "hi", "answer": "A", key: "no"}, f'"{key}" beside "question" is not read')
            for key in (
                "multiple_choices",
                "answer_choices",
                "Options",
                "candidates",
                "a",
                "article",
                "instruction",
            )
        ),
        ({"prompt": "hi", "completion": "A", "options": ["no"]}, '"options" beside "prompt" is not read'),
        ({"query": "hi", "response": "A", "history": [["a", "b"]]}, '"history" beside "query" is not read'),
        ({"prompt": "hi", "answers": ["yes"]}, '"answers" is not read'),
        ({"question": "hi", "answers": []}, '"answers" is empty'),
        ({"question": "hi", "answers": ["", None]}, '"answers" is empty'),
        ({"question": "hi", "answers": ["a"] * 1001}, '"answers" holds 1,001 answers'),
        ({"question": "hi", "answers": ["a", 7]}, '"answers" holds a value of type int: 7'),
        ({"question": "hi", "answers": [{"text": "a"}]}, '"answers" holds an object without "answer"'),
        ({"question": "hi", "answers": {"text": ["a"]}}, '"answers" holds a value of type dict'),
        ({"question": "hi", "answers": "['a', 'b']"}, '"answers" is a list written as text'),
        *(
            ({"question": "hi", "answers": ["a", "b"], key: value}, f'"{key}" beside "answers" is not read')
            for key, value in {
                "label": 1,
                "correct_answer": "b",
                "answer_idx": 0,
                "ground_truth": "b",
            }.items()
        ),
        ({"question": "hi", "captions": ["a", "b"]}, '"question" without "answer"'),
        ({"question": "hi", "answer": ["yes"]}, '"answer" is a list'),
        ({"question": "hi", "answer": 7}, '"answer" is a number (7)'),
        ({"question": "hi", "answer": True}, '"answer" is True instead of text'),
        ({"question": "hi", "answer": {"text": "yes"}}, '"answer" holds a value of type dict'),
        ({"question": "hi", "answer": None}, '"question" without "answer"'),
        ({"problem": "hi", "solution": "yes"}, '"problem" is not read'),
        ({"caption": "a dog", "url": "https://x.org/a.jpg", "image": "a.png"}, '"caption" is not read'),
        ({"captions": ["a dog", "a pet"], "image": "a.png"}, '"captions" is not read'),
        ({"conversations": json.dumps(spoken("hi"))}, "a list of turns written as text"),
        ({"messages": turns("hi"), "system": ["be brief"]}, '"system" is not a text'),
        ({"messages": turns("hi"), "system": "be brief", "system_prompt": "be long"}, "differ"),
        ({"question": "hi", "answer": "yes", "imageId": "n7"}, '"imageId" is not read'),
        ({"messages": turns("hi"), "image_path": "a.png"}, '"image_path" names an image and is not read'),
        ({"messages": turns("hi"), "image": None, "imgname": "a.JPG"}, '"imgname" names an image'),
        ({"messages": turns("hi"), "screenshot": ["a.png"]}, '"screenshot" names an image'),
        ({"messages": turns("hi"), "img": "data:image/png;base64," + "A" * 60}, '"img" names an image'),
        ({"messages": turns("hi"), "scan": {"bytes": None, "path": "a.png"}}, '"scan" holds an image'),
        ({"messages": turns("<image>hi"), "image": "a.png", "image_2": "b.png"}, '"image_2" names an image'),
        ({"messages": turns("<image>hi"), "image": "a.png", "images": ["b.png"]}, '"images" does not'),
        ({"messages": turns("hi"), "file_name": "a.png"}, "0 <image> tag(s)"),
        ({"messages": [{**turns("hi")[0], "images": ["a.png"]}, turns("hi")[1]]}, 'image under "images"'),
        ({"messages": turns("Picture 1: <img>a.png</img>\nhi")}, "turn 1 names an image in its text"),
        ({"messages": turns([text("<img>a.png</img>hi")])}, "turn 1 names an image in its text"),
        ({"prompt": 3, "completion": "yes"}, "neither texts nor lists of turns"),
        ({"messages": turns("hi"), "images": ["a.png"]}, "0 <image> tag(s)"),
        ({"messages": turns("  \n")}, "turn 1 (user) is empty"),
        ({"messages": turns("hi"), "videos": ["a.mp4"]}, '"videos" is not supported'),
        ({"messages": turns("hi"), "id": True}, "neither text nor an integer"),
        ({"messages": turns("hi"), "id": 1.5}, "neither text nor an integer"),
        ({"messages": turns("hi"), "id": ["x"]}, "neither text nor an integer"),
        ({"messages": turns("hi" * 60)}, "123 characters of text, the limit is 100"),
        ({"messages": turns(TAG * 3), "images": ["a.png"] * 3}, "3 images, the limit is 2"),
    ],
)
def test_refusals(folder: Path, row: Any, reason: str) -> None:
    refused = read_one(folder, row, limits=Limits(max_text_chars=100, max_images=2))
    assert refused.outcome == "rejected"
    assert reason in refused.reason
    assert refused.fix


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        (["a", "b", "b"], "b"),
        (["a", "b"], "a"),
        (["Nokia", "lg", "nokia", "LG"], "Nokia"),
        (["", None, "a"], "a"),
        ([{"answer": "a", "answer_confidence": "yes", "answer_id": 1}, *[{"answer": "b"}] * 2], "b"),
        ({"answer": ["a", "b", "b"], "answer_id": [1, 2, 3]}, "b"),
        ("a", "a"),
    ],
)
def test_of_several_answers_the_most_given_is_learnt(folder: Path, answers: Any, expected: str) -> None:
    row = {"question": "hi", "answers": answers, "image": "a.png", "answer_type": "other", "label": None}
    found = read_one(folder, row)
    one = read_one(folder, {"question": "hi", "answer": expected, "image": "a.png"})
    assert found.sample is not None
    assert found.sample == one.sample
    chosen = read_one(folder, row | {"answer": "c"})
    assert chosen.sample is not None
    assert chosen.sample.messages[-1]["content"] == [text("c")]
    assert (one.several, chosen.several) == (False, False)
    assert found.several == (answers not in ("a", ["", None, "a"]))


def test_several_answers_come_through_every_container(folder: Path, tmp_path: Path) -> None:
    rows = [
        {"question": "hi", "answers": [{"answer": each, "answer_id": i} for i, each in enumerate("abb")]},
        {"question": "ho", "answers": None},
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    table = datasets.Dataset.from_list(rows)
    table.to_parquet(tmp_path / "rows.parquet")
    table.save_to_disk(tmp_path / "saved")
    expected = read_one(folder, {"question": "hi", "answer": "b"}).sample
    odd = {"texts": [{"user": "hi", "assistant": "b"}], "question": "ho", "answers": 3}
    assert read_one(folder, odd).sample == expected  # what is not read is not looked at
    for name in ("rows.jsonl", "rows.parquet", "saved"):
        full, empty = open_dataset(tmp_path / name).rows()
        assert full.sample == expected
        assert '"question" without "answer"' in empty.reason


def test_a_row_that_would_take_hours_or_all_memory_is_refused(folder: Path) -> None:
    """What one row takes grows with the square of its turns, and with the pixels of all its images."""
    long = read_one(folder, {"messages": turns("hi") * 501})
    assert "1,002 turns, the limit is 1,000" in long.reason
    assert read_one(folder, {"messages": turns("hi") * 500}).outcome == "accepted"
    row = {"messages": turns(TAG * 3), "images": ["a.png", "b.png", "c.png"]}
    assert read_one(folder, row, limits=Limits(max_row_pixels=3 * 16)).outcome == "accepted"
    large = read_one(folder, row, limits=Limits(max_row_pixels=3 * 16 - 1))
    assert "more than 47 pixels in its 3 images together" in large.reason


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"tool_calls": [{"function": {"name": "look"}}]}, 'turn 2 (assistant) has "tool_calls"'),
        ({"function_call": {"name": "look"}}, 'has "function_call", which is not read'),
        ({"reasoning_content": "It is red."}, 'has "reasoning_content", which is not read'),
        ({"weight": 0}, '("weight" is 0), and every answer is'),
        ({"loss": False}, '("loss" is False)'),
    ],
)
def test_what_an_answer_says_beside_its_text_is_not_dropped(folder: Path, more: Any, reason: str) -> None:
    question, answer = turns("hi")
    row = read_one(folder, {"messages": [question, {**answer, **more}]})
    assert row.outcome == "rejected"
    assert reason in row.reason
    nothing = {key: [] for key in ("tool_calls", "thinking")} | {"function_call": None, "weight": 1.0}
    said = [{**question, "loss": False}, {**answer, **nothing, "loss": True}]
    assert read_one(folder, {"messages": said}).outcome == "accepted"


def test_only_llava_requires_an_id(folder: Path) -> None:
    row = {"conversations": turns("hi")}
    assert read_one(folder, row).source_id is None
    assert read_one(folder, row).outcome == "accepted"
    assert 'no "id"' in read_one(folder, row, "llava").reason
    assert read_one(folder, {**row, "id": 12}, "llava").source_id == "12"


@pytest.mark.parametrize(("found", "told"), [(1.0, "1"), ("", None), (7, "7"), ("1.0", "1.0")])
def test_ids_are_told_as_text(folder: Path, found: Any, told: str | None) -> None:
    row = read_one(folder, {"id": found, "messages": turns("hi")})
    assert (row.outcome, row.source_id) == ("accepted", told)


def test_duplicates_and_repeated_ids(folder: Path) -> None:
    first, other = {"id": "x", "messages": turns("hi")}, {"id": "x", "messages": turns("ho")}
    bad = {"id": "y", "messages": turns("hi", "")}
    mended = {"id": "y", "messages": turns("hey")}
    rows = read(folder, [first, other, first, {**first, "id": "z"}, bad, mended])
    outcomes = ["accepted", "accepted", "duplicate", "duplicate", "rejected", "accepted"]
    assert [row.outcome for row in rows] == outcomes
    assert [row.source_id for row in rows] == ["x", "x", "x", "z", "y", "y"]
    assert rows[3].of == rows[0].sample.sample_id


_TEXTS = st.text(st.characters(blacklist_categories=("Cs",)))
_PARTS = st.one_of(
    st.just({"type": "image"}),
    st.builds(lambda text: {"type": "text", "text": text}, _TEXTS),
    st.builds(lambda text: {"text": text, "type": "text", "more": [1.5, None]}, _TEXTS),
    st.builds(lambda number: {"type": "text", "text": number}, st.integers()),
)
_MESSAGES = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "assistant", "ß\n"]), "content": st.lists(_PARTS)},
        optional={"extra": st.integers()},
    )
)


@given(_MESSAGES, st.lists(_TEXTS))
def test_the_sample_id_is_the_hash_of_sorted_compact_json(messages: list[Any], hashes: list[str]) -> None:
    content = {"images": hashes, "messages": messages}
    text = json.dumps(content, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    assert content_id(messages, hashes) == hashlib.sha256(text.encode()).hexdigest()[:32]


def test_the_sample_id_is_that_of_the_content_alone(folder: Path) -> None:
    row = {"messages": turns("<image>hi"), "images": ["a.png"]}
    sample = read_one(folder, row).sample
    assert sample.sample_id == content_id(sample.messages, [sample.images[0].sha256])
    assert len(bytes.fromhex(sample.sample_id)) == 16
    assert read_one(folder, {**row, "id": "x", "extra": 1}).sample.sample_id == sample.sample_id
    assert read_one(folder, {**row, "images": ["b.png"]}).sample.sample_id != sample.sample_id
    assert (sample.text_chars, sample.text_only) == (len("hi") + len("yes"), False)


GOOD = [
    {"id": f"r{number}", "image": name, "conversations": turns(f"<image>\nwhat {number}?")}
    for number, name in enumerate(("a.png", "b.png", "c.png", "a.png"))
]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9) | st.just("b.png"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of everything inside `value`."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, item in inner for place in places(item, (*path, key)))]


@given(data=st.data(), format=st.sampled_from(["llava", "sharegpt"]))
@settings(max_examples=300)
def test_a_mutated_row_never_raises_and_every_row_is_told(
    folder: Path, data: st.DataObject, format: str
) -> None:
    rows: list[Any] = copy.deepcopy(GOOD)
    for _ in range(data.draw(st.integers(1, 3))):
        *path, last = data.draw(st.sampled_from([place for place in places(rows) if place]))
        parent = rows
        for key in path:
            parent = parent[key]
        if isinstance(parent, dict) and data.draw(st.booleans()):
            del parent[last]
        else:
            parent[last] = data.draw(VALUES)
    results = read(folder, rows, format)
    assert [row.row for row in results] == list(range(len(rows)))
    for row in results:
        assert (row.sample is None) == (row.outcome == "rejected")
        assert bool(row.reason) == bool(row.fix) == (row.outcome != "accepted")
    summary = summarise(check(open_dataset(folder / "rows.json", format=format)))
    assert summary.accepted + summary.rejected + summary.duplicate == len(rows)
    for number, row in enumerate(results):
        if repr(rows[number]) == repr(GOOD[number]) and row.outcome != "accepted":
            assert "earlier row" in row.reason  # an unharmed row is refused only for another one's sake
