"""What of a dataset the pool nearly has, and which of its skills it resembles: looked for in a sample of both.

By the frozen encoder where one is configured; else by the words of the texts and the difference hash of the pictures.
The samples are small enough to compare all pairs.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image as PillowImage

from lifelong.config import RunConfig
from lifelong.context import Stores
from lifelong.loader import ConversationLoader
from lifelong.models.encode import Conversation
from policies.arrays import unit_rows

NEW, HELD = 256, 4096
"""Samples of the dataset, and of the pool, that are compared."""
NEAR_COSINE = 0.97
"""Cosine of encoder features (image beside text) from which two samples are called nearly the same."""
NEAR_WORDS = 0.9
"""Share of words in common (Jaccard), with pictures within NEAR_BITS of one another."""
NEAR_BITS = 4
"""Bits of 64 in which the difference hashes of two pictures may differ."""
_WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class Likeness:
    """How it was looked for, of how many; near: share of the dataset's samples that the pool nearly has; skills: share
    whose nearest sample of the pool is of that skill, and how near those are on average."""

    by: str
    sampled: int
    held: int
    near: float
    skills: dict[str, tuple[float, float]]


def likeness(
    stores: Stores, config: RunConfig, new: Sequence[Conversation], rng: np.random.Generator
) -> Likeness | None:
    """Compare samples of a dataset with a sample of the live pool; None if the pool is empty."""
    pool = stores.pool.arrays()
    if not len(pool["ordinal"]) or not new:
        return None
    rows = np.sort(rng.choice(len(pool["ordinal"]), min(HELD, len(pool["ordinal"])), replace=False))
    skills = pool["skills"][rows].astype(str)
    ordinals = pool["ordinal"][rows].tolist()
    if config.encoder.kind != "none":
        ids = pool["sample_ids"][rows].astype(str).tolist()
        nearest, near, by = _by_encoder(stores, config, new, ordinals, ids)
    else:
        nearest, near, by = _by_hash(stores.loader, new, ordinals)
    return Likeness(by, len(new), len(rows), float(near.mean()), _shares(skills[nearest[0]], nearest[1]))


Nearest = tuple[np.ndarray, np.ndarray]


def _shares(skills: np.ndarray, similarity: np.ndarray) -> dict[str, tuple[float, float]]:
    counts = Counter(skills.tolist())
    return {
        skill: (count / len(skills), float(similarity[skills == skill].mean()))
        for skill, count in counts.most_common()
    }


def _by_encoder(
    stores: Stores, config: RunConfig, new: Sequence[Conversation], ordinals: list[int], ids: list[str]
) -> tuple[Nearest, np.ndarray, str]:
    from lifelong.encoders import encoder

    made = encoder(config.encoder)
    ours = _features([made(new[at : at + made.batch_size]) for at in range(0, len(new), made.batch_size)])
    held = _held_features(stores, config, made, ordinals, ids)
    cosine = ours @ held.T
    nearest = cosine.argmax(axis=1)
    best = cosine[np.arange(len(new)), nearest]
    return (nearest, best), best >= NEAR_COSINE, f"frozen encoder {config.encoder.kind}"


def _held_features(
    stores: Stores, config: RunConfig, made: object, ordinals: list[int], ids: list[str]
) -> np.ndarray:
    """Features of the pool's samples: those that are kept, and of the others new ones, which are not kept."""
    from lifelong.signals.frozen import features_of
    from lifelong.upkeep.fsck import features_folder, open_index
    from stores.features import INDEX

    folder = features_folder(stores)
    missing, parts = list(range(len(ids))), {}
    if (folder / INDEX).exists():
        features = open_index(folder)
        try:
            missing = features.missing(made.name, ids)  # type: ignore[attr-defined]
            there = sorted(set(range(len(ids))) - set(missing))
            names = [ids[at] for at in there]
            read = {name: features.read(made.name, names, name) for name in made.signals} if there else {}  # type: ignore[attr-defined]
            if there:
                parts.update(zip(there, _features([read]), strict=True))
        finally:
            features.db.close()
    if missing:
        rows = list(stores.pool.rows([ordinals[at] for at in missing]))
        fresh = features_of(made, stores.loader, rows)  # type: ignore[arg-type]
        parts.update(zip(missing, _features([fresh]), strict=True))
    return np.stack([parts[at] for at in range(len(ids))])


def _features(parts: list[dict[str, np.ndarray]]) -> np.ndarray:
    whole = [np.concatenate([part[name] for part in parts]) for name in ("image_feature", "text_feature")]
    return unit_rows(np.concatenate([unit_rows(each) for each in whole], axis=1))


def _by_hash(
    loader: ConversationLoader, new: Sequence[Conversation], ordinals: list[int]
) -> tuple[Nearest, np.ndarray, str]:
    held = list(loader.conversations(ordinals))
    vocabulary: dict[str, int] = {}
    ours, theirs = (_bags(each, vocabulary) for each in (new, held))
    width = len(vocabulary)
    ours, theirs = (_matrix(each, width) for each in (ours, theirs))
    common = ours @ theirs.T
    sizes = ours.sum(axis=1)[:, None] + theirs.sum(axis=1)[None, :]
    words = common / np.maximum(sizes - common, 1)
    bits = _apart([_pictures(each) for each in new], [_pictures(each) for each in held])
    pictures = 1 - bits / 64
    likeness = (words + np.maximum(pictures, 0)) / 2
    nearest = likeness.argmax(axis=1)
    near = ((words >= NEAR_WORDS) & (bits <= NEAR_BITS)).any(axis=1)
    by = "words and picture hashes (no encoder is configured: encoder.kind)"
    return (nearest, likeness[np.arange(len(new)), nearest]), near, by


def _bags(conversations: Sequence[Conversation], vocabulary: dict[str, int]) -> list[list[int]]:
    found = []
    for each in conversations:
        texts = (
            part["text"] for message in each.messages for part in message["content"] if part["type"] == "text"
        )
        words = {word for text in texts for word in _WORD.findall(text.lower())}
        found.append([vocabulary.setdefault(word, len(vocabulary)) for word in sorted(words)])
    return found


def _matrix(bags: list[list[int]], width: int) -> np.ndarray:
    whole = np.zeros((len(bags), max(width, 1)), dtype=np.float32)
    for row, bag in enumerate(bags):
        whole[row, bag] = 1
    return whole


def _pictures(conversation: Conversation) -> int | None:
    """The difference hash of the mean of a conversation's pictures, each 8 rows of 9 grey pixels; None without one."""
    if not conversation.images:
        return None
    small = [
        image.convert("L").resize((9, 8), PillowImage.Resampling.BILINEAR) for image in conversation.images
    ]
    grey = np.mean([np.asarray(image, dtype=np.float32) for image in small], axis=0)
    return int("".join("1" if bit else "0" for bit in (grey[:, 1:] > grey[:, :-1]).ravel()), 2)


def _apart(ours: list[int | None], theirs: list[int | None]) -> np.ndarray:
    """(n, m) bits in which two hashes differ; 0 where neither has a picture, 64 where one has."""
    found = np.full((len(ours), len(theirs)), 64, dtype=np.float32)
    for row, mine in enumerate(ours):
        for column, other in enumerate(theirs):
            if mine is None or other is None:
                found[row, column] = 0 if mine is other else 64
            else:
                found[row, column] = (mine ^ other).bit_count()
    return found
