"""Evaluate: every skill after every timestep; the cells of the skill matrix."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lifelong.context import Context, Outcome
from lifelong.evaluate.skills import Answer
from lifelong.phases.skills import eval_blocks, eval_samples, score
from stores.commit import Committed, commit_file
from stores.evals import Skill
from stores.ledger import Ledger


@dataclass(frozen=True, slots=True)
class Tested:
    """Cells of the skill matrix with the answers behind them: (timestep, skill, answers)."""

    cells: list[tuple[int, Skill, list[Answer]]]

    def result(self) -> dict[str, Any]:
        return {
            f"{skill.name} after {timestep}": score(answers)[0] for timestep, skill, answers in self.cells
        }

    def record(self, ledger: Ledger) -> Callable[[], None]:
        """What writes the cells into the ledger."""

        def apply() -> None:
            for timestep, skill, answers in self.cells:
                ledger.record_evaluation(timestep, skill.name, skill.metric, *score(answers))

        return apply

    def files(self, context: Context) -> list[tuple[str, Committed]]:
        """Every answer as a Parquet table: timestep, skill, sample_id, prediction, reference, score."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        if not self.cells:
            return []
        rows = [
            {
                "timestep": timestep,
                "skill": skill.name,
                "sample_id": answer.sample_id,
                "prediction": answer.prediction,
                "reference": answer.reference,
                "score": answer.score,
            }
            for timestep, skill, answers in self.cells
            for answer in answers
        ]
        table = pa.Table.from_pylist(rows)
        write = lambda path: pq.write_table(table, path)  # noqa: E731
        return [("answers", commit_file(context.root, context.folder, "answers", ".parquet", write))]


def evaluate(context: Context) -> Outcome:
    """Test every skill with the adapter of this timestep.

    A skill that has just become known is tested as it was before: with the untrained adapter (row 0) and
    with the last timestep's, which its forward transfer needs.
    """
    done = {(cell.timestep, cell.skill) for cell in context.stores.ledger.evaluations()}
    now = context.timestep
    cells: list[tuple[int, Skill]] = []
    for skill in context.stores.evals.skills():
        before = [0, now - 1] if skill.timestep == now else [0]
        cells += [(t, skill) for t in sorted({*before, now}) if (t, skill.name) not in done]
    cells.sort(key=lambda cell: cell[0])
    adapters = {timestep: context.adapter(timestep) for timestep, _ in cells}
    tested = test_cells(context, cells, adapters)
    return Outcome({"skills": tested.result()}, tested.files(context), tested.record(context.stores.ledger))


def test_cells(context: Context, cells: Sequence[tuple[int, Skill]], adapters: Mapping[int, Path]) -> Tested:
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
    return Tested(
        [
            (timestep, skill, [answer for first in sorted(blocks) for answer in blocks[first]])
            for (timestep, skill), blocks in zip(cells, found, strict=True)
        ]
    )
