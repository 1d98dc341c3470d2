# ruff: noqa: N803, N806 (R is the name of the skill matrix in the papers and in every output)
"""What each skill gained or forgot: the skill matrix R and the curves that follow from it.

R[t, s] is the accuracy on skill s after timestep t; row 0 is before any training; NaN = not evaluated.
The functions are pure: R is (T+1, S) float, `introduced` is (S,) float, the timestep (1…T) that brought each
skill, NaN while nothing has. Whatever would need a value that was not evaluated is NaN.
"""

from __future__ import annotations

import csv
import io
import json
import math
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pandas as pd

    from lifelong.context import Stores
    from stores.ledger import Evaluation

FloatArray = NDArray[np.float64]

FORMULAS: dict[str, str] = {
    "R": "R[t, s] = mean score of skill s's metric over its eval set after timestep t; row 0 is before any "
    "training (Lopez-Paz & Ranzato 2017, arXiv 1706.08840, §2)",
    "stderr": "stderr[t, s] = sd(scores, ddof=1) / sqrt(n): standard error of R[t, s] over the eval samples",
    "average_accuracy": "A[t] = mean of R[t, s] over the skills s seen so far (t_s <= t, t_s = the timestep "
    "that brought skill s); undefined where none is seen or one of them was not evaluated "
    "(Chaudhry et al. 2018, arXiv 1801.10112, §3)",
    "average_accuracy_all": "mean of R[t, s] over all skills; undefined where one of them was not evaluated",
    "forgetting": "F[t, s] = max over u < t of R[u, s], minus R[t, s]; u runs over every evaluated timestep "
    "before t, row 0 and those before t_s included; negative = better than ever before; given at the last "
    "timestep (Chaudhry et al. 2018, arXiv 1801.10112, §3, where u starts at the first trained task)",
    "first_minus_last": "R[t_s, s] - R[T, s], T the last timestep: the first accuracy after the skill's own "
    "data minus the last one",
    "backward_transfer": "B[t, s] = R[t, s] - R[t_s, s] for t >= t_s; given at the last timestep "
    "(Lopez-Paz & Ranzato 2017, arXiv 1706.08840, §2, there averaged over skills)",
    "forward_transfer": "W[s] = R[t_s - 1, s] - R[0, s]: the gain before the skill's own data; 0 for what "
    "timestep 1 brings (after Lopez-Paz & Ranzato 2017, arXiv 1706.08840, §2, with row 0 as the baseline)",
    "relative_gain": "100 * mean over s of R[T, s] / R_full[s], in %; R_full is the last row of a reference "
    "run that is named beside it (Adapt-∞, arXiv 2410.10636)",
}


def average_accuracy(R: FloatArray, introduced: FloatArray) -> FloatArray:
    """(T+1,) mean accuracy over the skills seen so far; formula `average_accuracy`."""
    _check(R, introduced)
    averages = np.full(len(R), np.nan)
    for timestep, row in enumerate(R):
        seen = introduced <= timestep
        if seen.any():
            averages[timestep] = row[seen].mean()
    return averages


def average_accuracy_all(R: FloatArray) -> FloatArray:
    """(T+1,) mean accuracy over all skills; formula `average_accuracy_all`."""
    return np.asarray(R.mean(axis=1)) if R.shape[1] else np.full(len(R), np.nan)


def forgetting(R: FloatArray) -> FloatArray:
    """(T+1, S) best earlier accuracy minus the present one; row 0 is NaN; formula `forgetting`."""
    lost = np.full_like(R, np.nan)
    lost[1:] = np.fmax.accumulate(R, axis=0)[:-1] - R[1:]  # fmax passes over NaN: best of what was evaluated
    return lost


def backward_transfer(R: FloatArray, introduced: FloatArray) -> FloatArray:
    """(T+1, S) accuracy gained since the skill's own timestep, NaN before; formula `backward_transfer`."""
    _check(R, introduced)
    gained = np.full_like(R, np.nan)
    for skill, first in _arrivals(introduced):
        gained[first:, skill] = R[first:, skill] - R[first, skill]
    return gained


def first_minus_last(R: FloatArray, introduced: FloatArray) -> FloatArray:
    """(S,) accuracy right after the skill's own data minus the last one; formula `first_minus_last`."""
    _check(R, introduced)
    lost = np.full(R.shape[1], np.nan)
    for skill, first in _arrivals(introduced):
        lost[skill] = R[first, skill] - R[-1, skill]
    return lost


def forward_transfer(R: FloatArray, introduced: FloatArray) -> FloatArray:
    """(S,) accuracy gained before the skill's own data; formula `forward_transfer`."""
    _check(R, introduced)
    gained = np.full(R.shape[1], np.nan)
    for skill, first in _arrivals(introduced):
        gained[skill] = R[first - 1, skill] - R[0, skill]
    return gained


def relative_gain(last: FloatArray, full: FloatArray) -> float:
    """Mean of last / full over skills, in %; formula `relative_gain`.

    last, full: (S,) last rows of R of this run and of the reference run, skills in the same order.
    Raises ValueError if the shapes differ or the reference has an accuracy of 0.
    """
    if last.shape != full.shape:
        raise ValueError(f"relative gain: {last.shape} accuracies against {full.shape} of the reference run")
    if (full == 0).any():
        skills = np.flatnonzero(full == 0).tolist()
        raise ValueError(
            f"relative gain: the reference run has accuracy 0 on skills {skills}; leave them out"
        )
    return float(100.0 * np.mean(last / full))


def _check(R: FloatArray, introduced: FloatArray) -> None:
    known = introduced[~np.isnan(introduced)]
    if R.ndim != 2 or introduced.shape != R.shape[1:]:
        raise ValueError(f"R must be (T+1, S) and introduced (S,), not {R.shape} and {introduced.shape}")
    if not np.isin(known, np.arange(1, len(R))).all():
        raise ValueError(f"introduced must be timesteps 1…{len(R) - 1} or NaN, not {introduced.tolist()}")


def _arrivals(introduced: FloatArray) -> Iterator[tuple[int, int]]:
    """(index of the skill, timestep that brought it) for the skills that have arrived."""
    for skill in np.flatnonzero(~np.isnan(introduced)):
        yield int(skill), int(introduced[skill])


@dataclass(frozen=True, slots=True, eq=False)
class Curves:
    """The skill matrix of a run with everything derived from it. Make one with `Curves.from_rows`.

    skills: S names, in order of arrival (not yet arrived ones last). metrics: skill -> metric name.
    R, stderr: (T+1, S), NaN where not evaluated. n: (T+1, S) int eval samples, 0 where not evaluated.
    introduced: (S,) timestep that brought each skill, NaN if not yet.
    """

    skills: tuple[str, ...]
    metrics: dict[str, str]
    R: FloatArray
    stderr: FloatArray
    n: NDArray[np.int64]
    introduced: FloatArray

    @classmethod
    def from_rows(cls, rows: Iterable[Evaluation], introduced: Mapping[str, int]) -> Curves:
        """Build the matrix from evaluations in any order.

        introduced: skill -> timestep that first brought its data. Skills without an evaluation are left out;
        a timestep after the last evaluated one (a run that is under way) counts as not yet.
        Raises ValueError if a (timestep, skill) occurs twice or a skill changes its metric.
        """
        rows = list(rows)
        last = max((row.timestep for row in rows), default=0)
        arrival = {skill: timestep for skill, timestep in introduced.items() if timestep <= last}
        evaluated = dict.fromkeys(row.skill for row in rows)
        skills = tuple(sorted(evaluated, key=lambda skill: arrival.get(skill, math.inf)))  # stable
        shape = (last + 1, len(skills))
        R, stderr, n = np.full(shape, np.nan), np.full(shape, np.nan), np.zeros(shape, dtype=np.int64)
        metrics: dict[str, str] = {}
        for row in rows:
            at = row.timestep, skills.index(row.skill)
            if row.n < 1:
                raise ValueError(
                    f"skill {row.skill!r}, timestep {row.timestep}: evaluated on {row.n} samples"
                )
            if n[at]:
                raise ValueError(f"skill {row.skill!r} is evaluated twice after timestep {row.timestep}")
            if metrics.setdefault(row.skill, row.metric) != row.metric:
                raise ValueError(
                    f"skill {row.skill!r} is measured by {metrics[row.skill]!r} and, after timestep "
                    f"{row.timestep}, by {row.metric!r}; give the new eval set a skill name of its own"
                )
            R[at], stderr[at], n[at] = row.value, row.stderr, row.n
        arrivals = np.array([arrival.get(skill, np.nan) for skill in skills], dtype=np.float64)
        _check(R, arrivals)
        return cls(skills, {skill: metrics[skill] for skill in skills}, R, stderr, n, arrivals)

    @property
    def average_accuracy(self) -> FloatArray:
        """(T+1,) over the skills seen so far."""
        return average_accuracy(self.R, self.introduced)

    @property
    def average_accuracy_all(self) -> FloatArray:
        """(T+1,) over all skills."""
        return average_accuracy_all(self.R)

    @property
    def forgetting(self) -> FloatArray:
        """(S,) at the last timestep."""
        return forgetting(self.R)[-1]

    @property
    def first_minus_last(self) -> FloatArray:
        """(S,)"""
        return first_minus_last(self.R, self.introduced)

    @property
    def backward_transfer(self) -> FloatArray:
        """(S,) at the last timestep."""
        return backward_transfer(self.R, self.introduced)[-1]

    @property
    def forward_transfer(self) -> FloatArray:
        """(S,)"""
        return forward_transfer(self.R, self.introduced)

    @property
    def last_n(self) -> list[int]:
        """S numbers of eval samples, each at the last timestep at which the skill was evaluated."""
        return [int(column[np.flatnonzero(column)[-1]]) for column in self.n.T]

    def to_dict(self) -> dict[str, Any]:
        """The stable form that `lifelong curves --json` prints; None where a value is not defined."""
        return {
            "skills": list(self.skills),
            "timesteps": list(range(len(self.R))),
            "R": _nullable(self.R),
            "stderr": _nullable(self.stderr),
            "n": self.last_n,
            "average_accuracy": _nullable(self.average_accuracy),
            "average_accuracy_all": _nullable(self.average_accuracy_all),
            "forgetting": self._by_skill(self.forgetting),
            "first_minus_last": self._by_skill(self.first_minus_last),
            "backward_transfer": self._by_skill(self.backward_transfer),
            "forward_transfer": self._by_skill(self.forward_transfer),
            "introduced": {
                skill: _integer(first) for skill, first in zip(self.skills, self.introduced, strict=True)
            },
            "metrics": dict(self.metrics),
            "formulas": dict(FORMULAS),
        }

    def to_json(self) -> str:
        """`to_dict` as JSON text; undefined values are null."""
        return json.dumps(self.to_dict(), ensure_ascii=False, allow_nan=False)

    def records(self) -> list[dict[str, Any]]:
        """One flat row per evaluated (timestep, skill), columns as in `FORMULAS`; None = undefined."""
        lost, gained = forgetting(self.R), backward_transfer(self.R, self.introduced)
        seen, overall = self.average_accuracy, self.average_accuracy_all
        return [
            {
                "timestep": int(t),
                "skill": self.skills[s],
                "metric": self.metrics[self.skills[s]],
                "R": float(self.R[t, s]),
                "stderr": _number(self.stderr[t, s]),
                "n": int(self.n[t, s]),
                "introduced": _integer(self.introduced[s]),
                "forgetting": _number(lost[t, s]),
                "backward_transfer": _number(gained[t, s]),
                "average_accuracy": _number(seen[t]),
                "average_accuracy_all": _number(overall[t]),
            }
            for t, s in zip(*np.nonzero(self.n), strict=True)
        ]

    def to_csv(self) -> str:
        """`records` as CSV with a header; undefined values are empty. Empty text if nothing was evaluated."""
        records = self.records()
        text = io.StringIO()
        if records:
            writer = csv.DictWriter(text, list(records[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(records)
        return text.getvalue()

    def matrix(self) -> pd.DataFrame:
        """R with timesteps as index and skills as columns; everything else of `to_dict` is in `attrs`."""
        import pandas as pd

        index = pd.RangeIndex(len(self.R), name="timestep")
        frame = pd.DataFrame(self.R, index=index, columns=pd.Index(self.skills, name="skill", dtype=object))
        frame.attrs = {
            name: value for name, value in self.to_dict().items() if name not in ("skills", "timesteps", "R")
        }
        return frame

    def to_frame(self) -> pd.DataFrame:
        """`records` as a pandas data frame."""
        import pandas as pd

        return pd.DataFrame(self.records())

    def table(self, width: int = 100, explain: bool = True) -> str:
        """Plain text for a terminal: a row per timestep, a column per skill, in %.

        Columns come in blocks of at most `width` characters (a lone column may be wider). A star marks the
        timestep that brought the skill; below it, n and what was lost and gained, by skill. explain: say by
        which formulas.
        """
        if not self.skills:
            return "no skill has been evaluated yet\n"
        label = max(map(len, _FOOTER)) + 2
        blocks = [_TABLE_TITLE]
        columns = self._columns()
        while columns:
            shown = [columns.pop(0)]
            while columns and label + sum(map(_breadth, [*shown, columns[0]])) <= width:
                shown.append(columns.pop(0))
            names = ["timestep", *map(str, range(len(self.R))), *_FOOTER]
            lines = [
                name.ljust(label) + "".join(map(str.rjust, cells, map(_breadth, shown)))
                for name, *cells in zip(names, *shown, strict=True)
                if any(cells)
            ]
            blocks.append("\n".join(line.rstrip() for line in lines))
        if not explain:
            return "\n\n".join(blocks) + "\n"
        explained = [f"{name}: {FORMULAS[name]}" for name in ("R", "average_accuracy", *_FOOTER[1:])]
        wrapped = (textwrap.fill(text, max(width, 40), subsequent_indent="  ") for text in explained)
        return "\n\n".join([*blocks, "\n".join(wrapped)]) + "\n"

    def _columns(self) -> list[list[str]]:
        """The columns of `table`: a heading, a cell per timestep, a cell per line of the footer."""
        footer = [self.forgetting, self.first_minus_last, self.backward_transfer, self.forward_transfer]
        columns = []
        for s, skill in enumerate(self.skills):
            cells = [
                percent(value, stderr) + ("*" if t == self.introduced[s] else " ")
                for t, (value, stderr) in enumerate(zip(self.R[:, s], self.stderr[:, s], strict=True))
            ]
            changes = [percent(values[s], sign="+") + " " for values in footer]
            columns.append([f"{skill} ", *cells, f"{self.last_n[s]} ", *changes])
        averages = [percent(value) for value in self.average_accuracy]
        return [*columns, ["average_accuracy", *averages, *[""] * len(_FOOTER)]]

    def _by_skill(self, values: FloatArray) -> dict[str, float | None]:
        return {skill: _number(value) for skill, value in zip(self.skills, values, strict=True)}


def curves_of(stores: Stores, until: int | None = None) -> Curves:
    """The skill matrix of an opened run. until: the last timestep of it; None: all that is on record."""
    rows = [row for row in stores.ledger.evaluations() if until is None or row.timestep <= until]
    introduced = {s.name: s.timestep for s in stores.evals.skills() if s.timestep is not None}
    return Curves.from_rows(rows, introduced)


_TABLE_TITLE = (
    "accuracy in % ± standard error; * = after the timestep that brought the skill's data; - = undefined"
)
_FOOTER = ("n", "forgetting", "first_minus_last", "backward_transfer", "forward_transfer")


def percent(value: float, stderr: float = math.nan, sign: str = "") -> str:
    """A fraction as terminal text in %, "52.0 ±2.2"; sign "+" shows the sign of gains; "-" for NaN."""
    if math.isnan(value):
        return "-"
    rounded = round(100 * value, 1) + 0.0  # + 0.0 turns -0.0 into 0.0
    return f"{rounded:{sign}.1f}" + ("" if math.isnan(stderr) else f" ±{100 * stderr:.1f}")


def _breadth(cells: list[str]) -> int:
    """Characters of a column of the table with the gap before it."""
    return max(map(len, cells)) + 2


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def _integer(value: float) -> int | None:
    return None if math.isnan(value) else int(value)


def _nullable(array: FloatArray) -> list[Any]:
    """Nested lists of floats with None for NaN."""
    return [_number(item) if np.ndim(item) == 0 else _nullable(item) for item in array]
