"""The metrics that a stream's eval sets name: each scores an answer against one reference or several, in [0, 1].

>>> METRICS["exact_match"].score("  Yes. ", "yes")
1.0
>>> METRICS["exact_match"].against("two", ["2", "Two"])
1.0
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

import numpy as np
from rapidfuzz.distance import Levenshtein

from lifelong.evaluate.vqa import agrees, vqa_accuracy

if TYPE_CHECKING:
    from rouge_score.rouge_scorer import RougeScorer

ANLS_THRESHOLD = 0.5
IOU_THRESHOLD = 0.5

_NUMBER = r"\s*([-+]?(?:\d+\.?\d*|\.\d+))\s*"
_BOX = re.compile(r"\[" + ",".join([_NUMBER] * 4) + r"\]")
# Chinese characters and Japanese kana are written without spaces: each one counts as a word.
_UNSPACED = re.compile("([\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff])")

Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Metric:
    """A way to score one answer.

    kind: "generate" = the model writes an answer, which is scored; "choice" = the model's likelihood picks
    one of the question's options (`lifelong.evaluate.options`), which is scored.
    max_new_tokens: default length of a generated answer, in tokens; 0 for kind "choice".
    score: (prediction, reference) -> float in [0, 1].
    source: paper or URL of the definition.
    joint: (prediction, references) -> float in [0, 1], of a metric that counts how many references agree.
    """

    name: str
    kind: Literal["generate", "choice"]
    max_new_tokens: int
    score: Callable[[str, str], float]
    source: str
    joint: Callable[[str, Sequence[str]], float] | None = None

    def against(self, prediction: str, references: Sequence[str]) -> float:
        """The score where each of the references is right: the best one's, or what they give together.

        Raises: ValueError if the metric cannot score against them.
        """
        if self.joint is not None:
            return self.joint(prediction, references)
        return max(self.score(prediction, reference) for reference in references)


def normalise(text: str) -> str:
    """Text as `exact_match` compares it: casefolded, runs of white space made one space, ends stripped,
    and one final period dropped ("  The  Cat. " -> "the cat"). Articles and other punctuation stay.
    """
    return " ".join(text.casefold().split()).removesuffix(".").rstrip()


def exact_match(prediction: str, reference: str) -> float:
    """1 if prediction and reference are equal after `normalise`, else 0."""
    return float(normalise(prediction) == normalise(reference))


def choice(prediction: str, reference: str) -> float:
    """1 if the chosen option is the reference (equal up to white space at the ends), else 0."""
    return float(prediction.strip() == reference.strip())


def anls(prediction: str, reference: str) -> float:
    """Normalised Levenshtein similarity, 0 where the normalised distance reaches the threshold 0.5.

    Case and runs of white space do not count, as in the ST-VQA evaluation.
    The average of this score over an eval set is ANLS.
    Source: Biten et al. 2019, "Scene Text Visual Question Answering", eq. 1 (arXiv 1905.13648).
    """
    predicted, wanted = (" ".join(text.lower().split()) for text in (prediction, reference))
    distance = Levenshtein.normalized_distance(predicted, wanted)
    return 1.0 - distance if distance < ANLS_THRESHOLD else 0.0


def parse_box(text: str) -> Box | None:
    """The first "[x1, y1, x2, y2]" in `text` with its corners in order, or None if there is none."""
    match = _BOX.search(text)
    if match is None:
        return None
    x1, y1, x2, y2 = (float(number) for number in match.groups())
    return min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)


def intersection_over_union(a: Box, b: Box) -> float:
    """Area shared by two boxes over the area of their union; 0 where they do not overlap."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return shared / (areas[0] + areas[1] - shared)


def iou50(prediction: str, reference: str) -> float:
    """1 if the predicted box overlaps the reference box with IoU >= 0.5; a prediction without a box is 0.

    Boxes are read by `parse_box`, in whatever unit both are written in.
    Raises ValueError if the reference has no box or a box without area.
    Source: Everingham et al. 2010, "The PASCAL Visual Object Classes Challenge", §4.2 (there IoU > 0.5;
    with >= as in RefCOCO's Acc@0.5 implementations).
    """
    wanted = parse_box(reference)
    if wanted is None or wanted[0] == wanted[2] or wanted[1] == wanted[3]:
        raise ValueError(
            f"metric iou50: the reference {reference!r} is not a box with an area; "
            'write it as "[x1, y1, x2, y2]" or choose another metric for this eval set'
        )
    predicted = parse_box(prediction)
    if predicted is None:
        return 0.0
    return float(intersection_over_union(predicted, wanted) >= IOU_THRESHOLD)


def words(text: str) -> list[str]:
    """Casefolded words of any script: maximal runs of letters, digits and combining marks.

    A Chinese or Japanese character is a word of its own. (`\\w` would cut Hindi words at their vowel signs;
    rouge-score's own tokenizer keeps a–z and 0–9 only.)
    """
    kept = (char if unicodedata.category(char)[0] in "LNM" else " " for char in text.casefold())
    return _UNSPACED.sub(r" \1 ", "".join(kept)).split()


class _Words:
    """`words` in the shape that rouge-score asks of a tokenizer."""

    def tokenize(self, text: str) -> list[str]:
        return words(text)


@lru_cache(maxsize=1)
def _rouge_scorer() -> RougeScorer:
    from rouge_score.rouge_scorer import RougeScorer  # imports nltk: slow, so only when used

    return RougeScorer(["rougeL"], use_stemmer=False, tokenizer=_Words())


def rouge_l(prediction: str, reference: str) -> float:
    """F-measure of the longest common subsequence of `words`, without stemming.

    A reference without any word (an emoji, say) is scored by `exact_match`.
    Source: Lin 2004, "ROUGE: A Package for Automatic Evaluation of Summaries", §3, as implemented by
    https://pypi.org/project/rouge-score (which weighs precision and recall equally).
    """
    if not words(reference):
        return exact_match(prediction, reference)
    return float(_rouge_scorer().score(reference, prediction)["rougeL"].fmeasure)


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric(
            "exact_match",
            "generate",
            16,
            exact_match,
            "Rajpurkar et al. 2016 (SQuAD) §6.1, articles and inner punctuation kept",
        ),
        Metric(
            "choice", "choice", 0, choice, "Brown et al. 2020 (arXiv 2005.14165) §2.4, likelihood of options"
        ),
        Metric("anls", "generate", 64, anls, "Biten et al. 2019 (arXiv 1905.13648) eq. 1, threshold 0.5"),
        Metric("iou50", "generate", 48, iou50, "Everingham et al. 2010 (PASCAL VOC) §4.2, IoU >= 0.5"),
        Metric(
            "rouge_l", "generate", 64, rouge_l, "Lin 2004 (ROUGE) §3, https://pypi.org/project/rouge-score"
        ),
        Metric(
            "vqa_accuracy",
            "generate",
            16,
            agrees,
            "Antol et al. 2015 (arXiv 1505.00468) §4, https://github.com/GT-Vision-Lab/VQA",
            vqa_accuracy,
        ),
    )
}


def mean_and_stderr(values: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """Mean of the scores of an eval set and the standard error of that mean, sd(ddof=1) / sqrt(n).

    values: (n,) scores. With n = 1 the standard error is NaN.
    Raises ValueError if there are no values.
    """
    scores = np.asarray(values, dtype=np.float64)
    if scores.size == 0:
        raise ValueError("an eval set without samples has no mean; give at least one eval sample")
    if scores.size == 1:
        return float(scores[0]), math.nan
    return float(scores.mean()), float(scores.std(ddof=1) / math.sqrt(scores.size))
