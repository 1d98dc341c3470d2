"""The accepted answers of eval rows."""

from __future__ import annotations

from typing import Any

import pytest

from lifelong.evaluate.references import accepted_of


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, []),
        ({"answers": None, "references": []}, []),
        ({"answers": ["Red.", "crimson"]}, ["Red.", "crimson"]),
        ({"answers": [{"answer": "red"}, {"answer": "red"}]}, ["red", "red"]),
        ({"references": ["crimson", "red"]}, ["crimson", "red"]),
        ({"captions": ["red", "a red ball"]}, ["red", "a red ball"]),
        ({"captions": ["a ball on a lawn", "a ball"]}, []),  # it describes the image
        ({"captions": 3}, []),
        ({"answers": ["red"], "captions": ["a ball"]}, ["red"]),
    ],
)
def test_what_is_accepted(fields: dict[str, Any], expected: list[str]) -> None:
    assert accepted_of(fields, "red", 1) == expected


@pytest.mark.parametrize(
    ("fields", "rounds", "reason"),
    [
        (
            {"answers": ["blue", "green"]},
            1,
            r'"answers" .*the row\'s own, \'red\', is not one of them; add it',
        ),
        ({"references": [3]}, 1, r'"references" holds a value of type int: 3; write .*, or drop the key'),
        ({"answers": ["red", "crimson"]}, 2, "a conversation of 2 rounds"),
    ],
)
def test_what_cannot_be_accepted_is_refused(fields: dict[str, Any], rounds: int, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        accepted_of(fields, "red", rounds)
