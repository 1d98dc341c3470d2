"""Vectors and starts only declare what the loop is to do."""

from __future__ import annotations

import pytest

from policies.errors import PolicyError
from policies.starts import Average, Base, Continue, LineSearch
from policies.vectors import Gradient, Hidden, NoVectors


def test_each_kind_of_vector_names_its_signal() -> None:
    assert [word.signal for word in (NoVectors(), Gradient(), Hidden())] == [None, "gradient", "hidden"]


@pytest.mark.parametrize(("options", "said"), [({"layer": -1}, "layer is -1"), ({"dim": 0}, "dim is 0")])
def test_gradients_of_no_layer_or_length_are_refused(options: dict[str, int], said: str) -> None:
    with pytest.raises(PolicyError, match=said):
        Gradient(**options)


def test_only_base_starts_anew() -> None:
    assert Base().from_base
    assert not Continue().from_base
    assert not Average().from_base


def test_only_an_average_keeps_some_of_what_it_started_from() -> None:
    assert [word.weights(4) for word in (Base(), Continue(), Average(), Average(0.1))] == [
        (1,),
        (1,),
        (0.5,),
        (0.25,),
    ]
    assert [Average(0.4).weights(timestep) for timestep in (1, 2, 3, 9)] == [(1,), (0.5,), (0.4,), (0.4,)]


def test_a_line_search_leaves_no_choice_in_the_first_timestep() -> None:
    assert LineSearch().weights(1) == (1,)
    assert [LineSearch(points=2).weights(2), LineSearch().weights(9)] == [(0.5, 1), (0.25, 0.5, 0.75, 1)]


@pytest.mark.parametrize(("options", "said"), [({"points": 1}, "points is 1"), ({"rows": 0}, "rows is 0")])
def test_a_search_without_points_or_rows_is_refused(options: dict[str, int], said: str) -> None:
    with pytest.raises(PolicyError, match=said):
        LineSearch(**options)


@pytest.mark.parametrize("share", [-0.1, 1.5, float("nan")])
def test_a_share_that_is_none_is_refused(share: float) -> None:
    with pytest.raises(PolicyError, match="share is"):
        Average(share)
