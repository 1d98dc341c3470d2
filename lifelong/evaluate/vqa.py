"""VQA accuracy, which counts the annotators who agree with an answer.

Antol et al. 2015, "VQA: Visual Question Answering" (arXiv 1505.00468), §4 and its evaluation code,
https://github.com/GT-Vision-Lab/VQA (PythonEvaluationTools/vqaEvaluation/vqaEval.py).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

AGREEING = 3
"""Annotators whose agreement is full marks."""

_MARKS = ';/[]"{}()=+\\_-><@`,?!'
_PERIOD = re.compile(r"\.(?!\d)")
_GROUPED = re.compile(r"\d,\d")
_ARTICLES = {"a", "an", "the"}
_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_DIGITS = {"none": "0", **{word: str(number) for number, word in enumerate(_NUMBERS)}}
_SHORTENED = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've he's
how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't not've o'clock
oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd somebody'd've somebody'll somebody's
someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've there're
there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've
when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't
wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've
"""
_WRITTEN_WITHOUT = {
    word[:place] + word[place + 1 :]: word
    for word in _SHORTENED.split()
    for place, mark in enumerate(word)
    if mark == "'"
}
"""Each with one of its apostrophes left out → whole."""


def normalise(text: str) -> str:
    """Text as VQA compares it: lower case, no articles, digits for the numbers up to ten, whole contractions, and no
    punctuation but apostrophes, colons and what stands before a digit ("The  Two dogs, dont." -> "2 dogs don't").

    As in the official code, a mark that touches a space, and each one in a text with "1,000", goes without a trace;
    elsewhere it leaves a space.
    """
    text = text.replace("\n", " ").replace("\t", " ").strip()
    grouped = _GROUPED.search(text) is not None
    cleaned = text
    for mark in _MARKS:
        gone = grouped or f"{mark} " in text or f" {mark}" in text
        cleaned = cleaned.replace(mark, "" if gone else " ")
    words = [_DIGITS.get(word, word) for word in _PERIOD.sub("", cleaned).lower().split()]
    return " ".join(_WRITTEN_WITHOUT.get(word, word) for word in words if word not in _ARTICLES)


def agrees(prediction: str, reference: str) -> float:
    """1 if one annotator gave that answer, else 0."""
    return float(normalise(prediction) == normalise(reference))


def vqa_accuracy(prediction: str, references: Sequence[str]) -> float:
    """min(annotators who agree / 3, 1), averaged over the sets of all annotators but one.

    references: one for each annotator, ten in VQA. They are normalised as the prediction is (the official code leaves
    articles and number words in them: those of VQA have none).
    Raises: ValueError for fewer than four, of which no answer can have full marks.
    """
    if len(references) <= AGREEING:
        raise ValueError(
            f"metric vqa_accuracy: {len(references)} accepted answers, where VQA has ten annotators' and four is the "
            'least; list them all under "answers", or choose exact_match or anls'
        )
    agreeing = [agrees(prediction, reference) for reference in references]
    left = [min((sum(agreeing) - each) / AGREEING, 1.0) for each in agreeing]
    return sum(left) / len(left)
