"""Evaluate: every skill after every timestep; the cells of the skill matrix."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lifelong.context import ADAPTER, Context, Outcome
from lifelong.evaluate.lmms import is_external
from lifelong.evaluate.skills import Answer
from lifelong.phases.external import externally
from lifelong.phases.skills import eval_blocks, eval_samples, score
from stores.commit import Committed, commit_file
from stores.evals import Skill
from stores.ledger import Ledger


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell of the skill matrix: what a skill's test gave after a timestep, with the answers behind it.

    stderr: NaN if it is not known; answers: none of a skill that an external evaluator tests.
    """

    timestep: int
    skill: Skill
    value: float
    stderr: float
    n: int
    answers: list[Answer]


@dataclass(frozen=True, slots=True)
class Tested:
    """Cells of the skill matrix."""

    cells: list[Cell]

    def result(self) -> dict[str, Any]:
        return {f"{cell.skill.name} after {cell.timestep}": cell.value for cell in self.cells}

    def record(self, ledger: Ledger) -> Callable[[], None]:
        """What writes the cells into the ledger."""

        def apply() -> None:
            for cell in self.cells:
                ledger.record_evaluation(
                    cell.timestep, cell.skill.name, cell.skill.metric, cell.value, cell.stderr, cell.n
                )

        return apply

    def files(self, context: Context) -> list[tuple[str, Committed]]:
        """Every answer as a Parquet table: timestep, skill, sample_id, prediction, reference, score, accepted.

        accepted: all answers that count as right; empty where the reference is the only one.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        rows = [
            {
                "timestep": cell.timestep,
                "skill": cell.skill.name,
                "sample_id": answer.sample_id,
                "prediction": answer.prediction,
                "reference": answer.reference,
                "score": answer.score,
                "accepted": list(answer.accepted),
            }
            for cell in self.cells
            for answer in cell.answers
        ]
        if not rows:
            return []
        types = [pa.int64(), *[pa.string()] * 4, pa.float64(), pa.list_(pa.string())]
        table = pa.Table.from_pylist(rows, pa.schema(list(zip(rows[0], types, strict=True))))
        write = lambda path: pq.write_table(table, path)  # noqa: E731
        return [("answers", commit_file(context.root, context.folder, "answers", ".parquet", write))]


def evaluate(context: Context) -> Outcome:
    """Test every skill with the adapter of this timestep.

    A skill that has just become known is tested as it was before: with the untrained adapter (row 0), with that of the
    timestep before its data arrived, which its forward transfer needs, and with all since then that are kept: its data
    may have come months before its eval set.
    """
    ledger = context.stores.ledger
    done = {(cell.timestep, cell.skill) for cell in ledger.evaluations()}
    now = context.timestep
    kept = {record.timestep for record in ledger.files() if record.kind == ADAPTER}
    cells: list[tuple[int, Skill]] = []
    for skill in context.stores.evals.skills():
        since = now if skill.timestep is None else skill.timestep - 1
        before = {0, *range(since, now)} & kept
        cells += [(t, skill) for t in sorted({*before, now}) if (t, skill.name) not in done]
    cells.sort(key=lambda cell: cell[0])
    adapters = {timestep: context.adapter(timestep) for timestep, _ in cells}
    tested = test_cells(context, cells, adapters)
    return Outcome({"skills": tested.result()}, tested.files(context), tested.record(context.stores.ledger))


def test_cells(context: Context, cells: Sequence[tuple[int, Skill]], adapters: Mapping[int, Path]) -> Tested:
    """The given (timestep, skill), each tested with that timestep's adapter."""
    external = externally(context, [cell for cell in cells if is_external(cell[1].metric)], adapters)
    own = [cell for cell in cells if not is_external(cell[1].metric)]
    answers = dict(zip(own, _answers(context, own, adapters), strict=True))
    tested = []
    for timestep, skill in cells:
        if is_external(skill.metric):
            found = external[timestep, skill.name]
            tested.append(Cell(timestep, skill, found.value, found.stderr, found.n, []))
        else:
            said = answers[timestep, skill]
            tested.append(Cell(timestep, skill, *score(said), said))
    return Tested(tested)


def _answers(
    context: Context, cells: Sequence[tuple[int, Skill]], adapters: Mapping[int, Path]
) -> list[list[Answer]]:
    """Answers for each (timestep, skill), with that timestep's adapter."""
    jobs = (
        block
        for cell, (timestep, skill) in enumerate(cells)
        for block in eval_blocks(context, cell, skill, adapters[timestep])
    )
    found: list[dict[int, list[Answer]]] = [{} for _ in cells]
    answered, total = 0, sum(eval_samples(context, skill) for _, skill in cells)

    def progress(count: int) -> None:
        nonlocal answered
        answered += count
        context.progress.step("eval samples answered", answered, total)

    for job, answers in context.engine.map(jobs, progress):
        found[job.cell][job.first] = answers
    return [[answer for first in sorted(blocks) for answer in blocks[first]] for blocks in found]
