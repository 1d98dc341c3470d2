"""Rows made hostile: JSON trees whose nodes are replaced, dropped, doubled, renamed and wrapped."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from typing import Any

NAMES = (
    "../secret.png",
    "../../../../etc/passwd",
    "/etc/passwd",
    "/proc/self/environ",
    "up/secret.png",
    "out.png",
    "loop.png",
    "dir.png",
    "..\\secret.png",
    "C:\\secret.png",
    "~/secret.png",
    "file:///etc/passwd",
    "http://localhost:1/x.png",
    "data:image/png;base64,AAAA",
    "images/../../secret.png",
    "good.png/../../secret.png",
    "a\0b.png",
    ".",
    "",
    "x" * 5000,
    "a/" * 3000 + "x.png",
    "good.png ",
    "ＧＯＯＤ.png",
)
TEXTS = (
    "<image>",
    "<image><image>",
    "<image>\n" * 70,
    "\ud800",
    "a\0b",
    "\u2028\u202e\ufeff",
    "\x1b[2J\x1b]0;x\x07",
    " \t\n",
    "�" * 3,
    "🙂" * 40,
    "e\u0301" * 30,
    "1" * 5000,
    "%s%n{0}{x!r}",
    "'; DROP TABLE samples; --",
    "x" * 120_000,
)
ROLES = ("system", "human", "gpt", "user", "assistant", "tool", "")
KEYS = (
    "id",
    "image",
    "images",
    "conversations",
    "messages",
    "role",
    "from",
    "content",
    "value",
    "type",
    "text",
    "path",
    "url",
    "bytes",
    "index",
    "system",
    "video",
    "audios",
    "__class__",
    "",
)
_SCALARS: tuple[Callable[[random.Random], Any], ...] = (
    lambda rng: None,
    lambda rng: rng.random() < 0.5,
    lambda rng: rng.choice((0, -1, 2**63, 10**300, 10**4000, -(10**4000), rng.randrange(100))),
    lambda rng: rng.choice((0.0, -0.0, 1e308, 5e-324, float("nan"), float("inf"))),
    lambda rng: hostile_text(rng),
    lambda rng: rng.choice(ROLES),
    lambda rng: [],
    lambda rng: {},
)


def hostile_text(rng: random.Random) -> str:
    if rng.random() < 0.1:
        return "".join(chr(rng.choice((rng.randrange(128), rng.randrange(0x3000)))) for _ in range(12))
    return rng.choice(NAMES + TEXTS)


def hostile_value(rng: random.Random, depth: int = 0) -> Any:
    kind = rng.random()
    if kind < 0.7 or depth > 3:
        return rng.choice(_SCALARS)(rng)
    if kind < 0.75:
        return _nested(rng.choice((10, 63, 64, 65, 120)), rng)
    if kind < 0.87:
        return [hostile_value(rng, depth + 1) for _ in range(rng.randint(0, 4))]
    return {rng.choice(KEYS): hostile_value(rng, depth + 1) for _ in range(rng.randint(0, 4))}


def _nested(levels: int, rng: random.Random) -> Any:
    value: Any = "deep"
    for _ in range(levels):
        value = [value] if rng.random() < 0.5 else {"messages": value}
    return value


def scramble(tree: Any, rng: random.Random) -> Any:
    """A copy of the tree with one node changed."""
    tree = copy.deepcopy(tree)
    places = list(_places(tree))
    if not places:
        return hostile_value(rng)
    container, key = rng.choice(places)
    match rng.randrange(7):
        case 0 | 1 | 2:
            container[key] = hostile_value(rng)
        case 3:
            del container[key]
        case 4:
            other, there = rng.choice(places)
            container[key] = copy.deepcopy(other[there])
        case 5 if isinstance(container, list):
            container.insert(key, copy.deepcopy(container[key]))
        case _ if isinstance(container, dict):
            container[rng.choice(KEYS)] = container.pop(key)
        case _:
            container[key] = [container[key]]
    return tree


def _places(tree: Any) -> Any:
    """Every (container, key) of the tree."""
    if not isinstance(tree, (dict, list)):
        return
    for key in list(tree) if isinstance(tree, dict) else range(len(tree)):
        yield tree, key
        yield from _places(tree[key])
