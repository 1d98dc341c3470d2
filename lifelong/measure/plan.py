"""From the signals that a recipe's words declare to the cheapest passes that give them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from lifelong import seeds
from lifelong.errors import UsageError
from policies.scorers.base import FREE_SIGNALS
from policies.vectors import Gradient, Vectors

if TYPE_CHECKING:
    from lifelong.measure.passes import Pass
    from lifelong.models.load import VisionLanguageModel

FORWARD = frozenset({"nll", "el2n", "entropy", "answer_tokens"})
BACKWARD = frozenset({"gradient", "gradient_norm"})
HIDDEN = frozenset({"hidden"})
ATTENTION = frozenset({"attended", "alignment"})
BLIND = frozenset({"nll_blind"})
ALONE = frozenset({"nll_alone"})
OF_IMAGES = ATTENTION | BLIND
"""Signals that a sample without an image does not have: NaN."""
TRAJECTORY = frozenset({"trajectory"})
VALIDATION = frozenset({"validation"})
"""The recipe's vectors of a validation set, averaged over each of its tasks."""
FROZEN = {
    "encoder": frozenset({"image_feature", "text_feature"}),
    "rater": frozenset({"ratings", "styles"}),
}
"""Signals that depend on content alone, by the producer that makes them once in a sample's life."""
DERIVED = {"encoded": FROZEN["encoder"], "nll_before": frozenset({"nll"})}
"""Signals made of others."""
SIGNALS = (
    FORWARD
    | BACKWARD
    | HIDDEN
    | ATTENTION
    | BLIND
    | ALONE
    | TRAJECTORY
    | VALIDATION
    | frozenset().union(*FROZEN.values())
    | frozenset(DERIVED)
    | frozenset(FREE_SIGNALS)
)


VECTORS = frozenset({"gradient", "hidden", "attended", "encoded", "trajectory"}) | FROZEN["encoder"]
"""Signals of many columns, which a recipe can have as its vectors."""


class NeedsSignals(Protocol):
    """A word that reads signals."""

    @property
    def name(self) -> str: ...
    @property
    def needs(self) -> tuple[str, ...]: ...


@dataclass(frozen=True, slots=True)
class MeasurePlan:
    """What a timestep measures: the signals kept for each sample, and what gives them.

    gradient: the vectors' word where the recipe has gradient vectors; None: the gradient's norm, if it is
    wanted, is that of all adapted layers.
    """

    signals: frozenset[str]
    gradient: Gradient | None = None
    passes: tuple[str, ...] = field(init=False)

    @property
    def frozen(self) -> frozenset[str]:
        """The signals among them that frozen producers make."""
        return self.signals & frozenset().union(*FROZEN.values())

    @property
    def producers(self) -> tuple[str, ...]:
        """Kinds of the frozen producers that are needed."""
        return tuple(kind for kind, given in FROZEN.items() if self.signals & given)

    @property
    def from_model(self) -> frozenset[str]:
        """The signals among them that the passes over the current model give."""
        return self.signals & (FORWARD | BACKWARD | HIDDEN | ATTENTION | BLIND | ALONE)

    @property
    def trajectory(self) -> bool:
        """Whether checkpoints of the training are to be kept and measured."""
        return bool(self.signals & TRAJECTORY)

    def __post_init__(self) -> None:
        passes = []
        if self.signals & BACKWARD:
            passes.append("forward + backward")
        elif self.signals & (FORWARD | HIDDEN | ATTENTION):
            passes.append("forward")
        if self.signals & BLIND:
            passes.append("forward without images")
        if self.signals & ALONE:
            passes.append("forward of the answers alone")
        if self.trajectory:
            passes.append("forward at each checkpoint of the last training")
        if self.signals & VALIDATION:
            passes.append("the same over the validation set")
        passes += [f"{kind}, once in a sample's life" for kind in self.producers]
        object.__setattr__(self, "passes", tuple(passes))


def plan(words: Iterable[NeedsSignals], vectors: Vectors) -> MeasurePlan:
    """The union of what the words (scorers, the sampler) and the vectors need.

    Raises:
        UsageError: a scorer needs a signal that nothing gives, or the vectors are none, naming both.
    """
    signals: set[str] = set()
    for scorer in words:
        unknown = set(scorer.needs) - SIGNALS
        if unknown:
            raise UsageError(
                f"{scorer.name!r} needs the signal {sorted(unknown)[0]!r}, which is not measured; "
                f"signals are {', '.join(sorted(SIGNALS))}"
            )
        if "vectors" in scorer.needs and vectors.signal is None:
            raise UsageError(f"{scorer.name!r} needs vectors, and the recipe has none; try vectors gradient")
        if VALIDATION & set(scorer.needs) and vectors.signal not in BACKWARD | HIDDEN:
            raise UsageError(
                f"{scorer.name!r} compares the model's own vectors: write vectors gradient or hidden"
            )
        signals |= set(scorer.needs)
    if vectors.signal is not None:
        if vectors.signal not in VECTORS:
            raise UsageError(
                f"vectors {vectors.name} are the signal {vectors.signal!r}, which has no vectors; "
                f"those that have are {', '.join(sorted(VECTORS))}"
            )
        signals.add(vectors.signal)
    for name, parts in DERIVED.items():
        if name in signals:
            signals |= parts
    gradient = vectors if isinstance(vectors, Gradient) else None
    return MeasurePlan(frozenset(signals - set(FREE_SIGNALS) - set(DERIVED)), gradient)


def passes_of(measure_plan: MeasurePlan, vlm: VisionLanguageModel, run_seed: int) -> list[Pass]:
    """The passes of a plan on a model; together they give every signal of the plan.

    The projection depends on the run's seed alone, so vectors of different timesteps can be compared.
    """
    from lifelong.measure.passes import AlonePass, AnswerPass, BlindPass, ReadPass
    from lifelong.measure.projectors import PROJECTORS, NormsOnly

    wanted = measure_plan.from_model
    if not wanted:
        # Nothing is asked of the model; still, a sample that its processor refuses must be found here.
        return [ReadPass(vlm)]
    passes: list[Pass] = []
    if wanted & (FORWARD | BACKWARD | HIDDEN | ATTENTION):
        layers: list[int] = []
        projector = None
        if wanted & BACKWARD:
            word = measure_plan.gradient
            layers = layer_numbers(word.layer if word else "all", len(vlm.decoder_layers))
            seed = seeds.derive(run_seed, 0, "measure", "projection")
            projector = PROJECTORS[word.projector](word.dim, seed) if word else NormsOnly()
        hidden = len(vlm.decoder_layers) // 2 if wanted & HIDDEN else None
        passes.append(
            AnswerPass(vlm, tuple(layers), projector, hidden, "attended" in wanted, "alignment" in wanted)
        )
    if wanted & BLIND:
        passes.append(BlindPass(vlm))
    if wanted & ALONE:
        passes.append(AlonePass(vlm))
    return passes


def layer_numbers(layer: int | str, count: int) -> list[int]:
    """Decoder layers that a word names: an index, middle, last or all.

    Raises:
        UsageError: the model has no such layer.
    """
    if layer == "all":
        return list(range(count))
    number = {"middle": count // 2, "last": count - 1}.get(str(layer), layer)
    if not 0 <= int(number) < count:
        raise UsageError(f"vectors gradient[layer={layer}]: the model has {count} layers, 0 to {count - 1}")
    return [int(number)]
