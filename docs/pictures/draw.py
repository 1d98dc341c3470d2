"""Draws the pictures of docs/concepts.md: python docs/pictures/draw.py

Colours are variables of the picture, so that one file is readable on a light and on a dark page.
"""

from __future__ import annotations

from pathlib import Path
from xml.sax.saxutils import escape

STYLE = """<style>
svg.lifelong { --ink: #1f2328; --line: #7d8590; --one: #dbeafe; --two: #dcfce7; --three: #fef3c7; }
@media (prefers-color-scheme: dark) {
  svg.lifelong { --ink: #e6edf3; --line: #8b949e; --one: #1f3b5c; --two: #1d4430; --three: #4f3f12; }
}
svg.lifelong text { fill: var(--ink); font: 13px system-ui, sans-serif; }
svg.lifelong text.strong { font-weight: 600; }
svg.lifelong text.small { font-size: 11px; }
svg.lifelong text.code { font: 12px ui-monospace, monospace; }
svg.lifelong .line { stroke: var(--line); stroke-width: 1.5; fill: none; }
svg.lifelong .head { fill: var(--line); }
svg.lifelong .plain { fill: none; stroke: var(--line); }
svg.lifelong .one { fill: var(--one); stroke: var(--line); }
svg.lifelong .two { fill: var(--two); stroke: var(--line); }
svg.lifelong .three { fill: var(--three); stroke: var(--line); }
</style>
<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto">
<path class="head" d="M0 0 8 4 0 8z"/></marker></defs>"""


class Picture:
    """Boxes, words and arrows at places in pixels."""

    def __init__(self, width: int, height: int) -> None:
        self.size = (width, height)
        self.parts: list[str] = []

    def text(self, x: float, y: float, words: str, kind: str = "", anchor: str = "middle") -> None:
        self.parts.append(
            f'<text x="{x}" y="{y}" class="{kind}" text-anchor="{anchor}">{escape(words)}</text>'
        )

    def box(self, x: float, y: float, w: float, h: float, title: str, *lines: str, kind: str = "one") -> None:
        """A box with a title and smaller lines under it, all in its middle."""
        self.parts.append(f'<rect class="{kind}" x="{x}" y="{y}" width="{w}" height="{h}" rx="7"/>')
        top = y + h / 2 + 5 - 8 * len(lines)
        self.text(x + w / 2, top, title, "strong")
        for number, line in enumerate(lines, 1):
            self.text(x + w / 2, top + 16 * number, line, "small")

    def arrow(self, *points: tuple[float, float], dashed: bool = False) -> None:
        way = " ".join(f"{x},{y}" for x, y in points)
        dash = ' stroke-dasharray="5 4"' if dashed else ""
        self.parts.append(f'<polyline class="line" points="{way}" marker-end="url(#head)"{dash}/>')

    def svg(self) -> str:
        width, height = self.size
        size = f'width="{width}" viewBox="0 0 {width} {height}"'
        opening = f'<svg xmlns="http://www.w3.org/2000/svg" class="lifelong" {size}>'
        return "\n".join([opening, STYLE, *self.parts, "</svg>", ""])


def timestep() -> Picture:
    """The eight phases in a ring of two rows, each with what it does."""
    picture = Picture(760, 300)
    phases = [
        ("ingest", "the dataset", "joins the pool", "two"),
        ("measure", "the model reads", "every sample", "one"),
        ("cluster", "like gradients:", "a pseudo-skill", "one"),
        ("route", "an expert", "for each cluster", "one"),
        ("select", "the budget", "is spent", "one"),
        ("train", "the model learns", "the selection", "three"),
        ("evaluate", "every skill", "is tested", "three"),
        ("prune", "what repeats", "is let go", "two"),
    ]
    places = [(20 + 187 * n, 60) for n in range(4)] + [(20 + 187 * n, 190) for n in reversed(range(4))]
    for number, ((name, *lines, kind), (x, y)) in enumerate(zip(phases, places, strict=True), 1):
        picture.box(x, y, 150, 72, f"{number}  {name}", *lines, kind=kind)
    for n in range(3):
        picture.arrow((172 + 187 * n, 96), (205 + 187 * n, 96))
        picture.arrow((579 - 187 * n, 226), (546 - 187 * n, 226))
    picture.arrow((656, 134), (656, 188))
    picture.arrow((95, 188), (95, 136), dashed=True)
    picture.text(106, 166, "next release", "small", "start")
    picture.arrow((95, 20), (95, 58))
    picture.text(106, 34, "a dataset is released", "small", "start")
    picture.text(656, 284, "each phase ends with one commit", "small")
    for x, kind, words in (
        (20, "two", "changes the pool"),
        (150, "one", "decides"),
        (230, "three", "the model"),
    ):
        picture.parts.append(f'<rect class="{kind}" x="{x}" y="275" width="12" height="12" rx="3"/>')
        picture.text(x + 18, 285, words, "small", "start")
    return picture


def wings() -> Picture:
    """lifelong above; policies and stores beside each other, with no line between."""
    picture = Picture(760, 260)
    picture.box(
        130,
        15,
        500,
        72,
        "lifelong",
        "the loop, and all that a user touches: commands, formats, models, report",
    )
    picture.box(
        20, 160, 320, 84, "policies", "decisions", "arrays in, arrays out: no files, no models", kind="three"
    )
    picture.box(
        420,
        160,
        320,
        84,
        "stores",
        "what lasts",
        "pool, ledger, media, shards: no models, no decisions",
        kind="two",
    )
    picture.arrow((240, 89), (190, 158))
    picture.arrow((520, 89), (570, 158))
    picture.text(180, 126, "asks", "small", "end")
    picture.text(580, 126, "keeps", "small", "start")
    picture.text(380, 206, "know nothing", "small")
    picture.text(380, 220, "of each other", "small")
    return picture


def grammar() -> Picture:
    """The slots of a sentence in the order in which they act, with Adapt-∞'s words below."""
    picture = Picture(760, 190)
    slots = [
        ("candidates", "who may", "pool"),
        ("vectors", "compared by", "gradient"),
        ("clusters", "pseudo-skills", "kmeans[k=10]"),
        ("router", "which expert", "entropy[el2n …]"),
        ("budget", "how much each", "even"),
        ("sample", "which ones", "ccs"),
        ("prune", "what goes", "semdedup"),
    ]
    for n, (slot, meaning, word) in enumerate(slots):
        x = 8 + 107 * n
        picture.box(x, 40, 98, 62, slot, meaning, kind="one" if n < 6 else "two")
        picture.parts.append(f'<rect class="three" x="{x}" y="118" width="98" height="34" rx="7"/>')
        picture.text(x + 49, 139, word, "small code" if len(word) < 14 else "small")
    picture.text(8, 24, "a slot for each decision", "small", "start")
    picture.text(8, 174, "adapt-inf: one word in each; change a word and it is an ablation", "small", "start")
    return picture


def commit() -> Picture:
    """From staged file to the row that points to it; what is left at each kill."""
    picture = Picture(760, 250)
    steps = [
        ("stage", "write beside the", "target, fsync", "one"),
        ("rename", "to a name with its", "hash, fsync folder", "one"),
        ("transaction", "one in SQLite: the", "row and its effects", "three"),
        ("committed", "row and file", "agree by hash", "two"),
    ]
    for n, (name, first, second, kind) in enumerate(steps):
        picture.box(12 + 192 * n, 40, 158, 78, name, first, second, kind=kind)
        if n < 3:
            picture.arrow((172 + 192 * n, 79), (202 + 192 * n, 79))
    kills = ["killed here: garbage,", "killed here: garbage,", "killed here: as before,"]
    ends = ["swept at the next start", "swept at the next start", "or as after; never between"]
    for n, (first, second) in enumerate(zip(kills, ends, strict=True)):
        picture.arrow((91 + 192 * n, 165), (91 + 192 * n, 122), dashed=True)
        picture.text(91 + 192 * n, 184, first, "small")
        picture.text(91 + 192 * n, 200, second, "small")
    picture.text(667, 184, "killed here:", "small")
    picture.text(667, 200, "goes on with the next phase", "small")
    picture.arrow((667, 165), (667, 122), dashed=True)
    picture.text(12, 24, "what a phase leaves becomes true at one instant", "small", "start")
    picture.text(
        12,
        236,
        "a file that no row points to is garbage; a row whose file is missing is damage",
        "small",
        "start",
    )
    return picture


PICTURES = {"timestep": timestep, "wings": wings, "grammar": grammar, "commit": commit}


def draw(folder: Path) -> None:
    """Write every picture as NAME.svg."""
    for name, make in PICTURES.items():
        (folder / f"{name}.svg").write_text(make().svg(), encoding="utf-8")


if __name__ == "__main__":
    draw(Path(__file__).resolve().parent)
