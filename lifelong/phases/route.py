"""Route: every expert scores every sample; in each cluster the router picks the expert that decides."""

from __future__ import annotations

import math

import numpy as np

from lifelong.context import Context, Outcome
from lifelong.recipes.asked import asked, signals_for
from lifelong.recipes.method import Method
from lifelong.signals.fitted import fitted_state
from policies import promises
from policies.arrays import members
from policies.scorers.base import FittedScorer
from stores.commit import Committed


def route(context: Context) -> Outcome:
    """Commit all experts' scores, the choice per cluster, and each sample's deciding score."""
    method = context.method
    signals = context.signals()
    labels = context.arrays("clusters")["cluster"]
    needed = {name for scorer in method.scorers.values() for name in scorer.needs}
    read = signals.read(needed, labels)
    scores: dict[str, np.ndarray] = {}
    files: list[tuple[str, Committed]] = []
    for name, scorer in method.scorers.items():
        rng = context.rng("route", f"scorer {name}")
        columns = signals_for(scorer, read)
        with asked("expert", name, scorer):
            if isinstance(scorer, FittedScorer):
                fitted = fitted_state(context, name, scorer, columns, files)
                found = scorer.score_fitted(fitted, columns, rng)
            else:
                found = scorer.score(columns, rng)
            scores[name] = promises.scores(found, len(labels))
    ranking, compared = _with_stand_ins(method, scores, labels)
    with asked("router", method.router.name, method.router):
        found = method.router.route(compared, labels, context.rng("route", "router"))
        routing = promises.routing(found, labels, ranking)
    chance = context.rng("route", "chance").random(len(labels))
    deciding = np.empty(len(labels))
    for cluster, rows in members(labels):
        expert = routing.choice[cluster]
        deciding[rows] = ranking[expert][rows] if expert in ranking else chance[rows]
    for note in routing.notes:
        context.progress.say(f"  {note}")
    arrays = {f"score_{name}": values for name, values in scores.items()} | {"score": deciding}
    result = {
        "choice": {str(cluster): expert for cluster, expert in routing.choice.items()},
        "values": {
            str(cluster): {name: value if math.isfinite(value) else None for name, value in found.items()}
            for cluster, found in routing.values.items()
        },
        "experts": list(scores),
        "skipped": method.skipped,
        "notes": list(routing.notes),
    }
    return Outcome(result, [*files, ("scores", context.commit_arrays("scores", arrays))])


def _with_stand_ins(
    method: Method, scores: dict[str, np.ndarray], labels: np.ndarray
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The scores that rank, in which an expert's stand-in fills its gaps, and those that the router compares.

    The router sees a stand-in's scores only in a cluster of which the expert can judge nothing: beside the
    expert's own, scores of another scale would spread the histogram.
    """
    ranking, compared = dict(scores), dict(scores)
    for name, scorer in method.scorers.items():
        if scorer.stand_in:
            missing = ~np.isfinite(scores[name])
            ranking[name] = np.where(missing, scores[scorer.stand_in], scores[name])
            compared[name] = scores[name].copy()
            for _, rows in members(labels):
                if missing[rows].all():
                    compared[name][rows] = ranking[name][rows]
    return ranking, compared
