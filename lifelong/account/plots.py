"""Curves drawn: figures as image files (needs matplotlib) and sparklines for a terminal."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lifelong.account.curves import Curves, FloatArray, percent, relative_gain

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SUFFIXES = (".png", ".svg", ".pdf")

# Okabe & Ito's colours for all kinds of colour vision (https://jfly.uni-koeln.de/color/), without the yellow,
# which is too pale on white. Markers and dashes repeat with other periods, so runs differ without colour too.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#E69F00", "#56B4E9")
_MARKERS = ("o", "s", "^", "D", "v")
_DASHES = ("-", "--", "-.", ":")
_BARS = "▁▂▃▄▅▆▇█"


def plot_curves(curves: Mapping[str, Curves], out: Path) -> None:
    """Draw one panel per skill: accuracy over timesteps, a line per run, a band of ± one standard error.

    curves: label of the run -> its curves. out: a .png, .svg or .pdf file, overwritten.
    A dashed vertical line marks the timestep that brought the skill's data.
    Raises ValueError for another suffix or if nothing was evaluated, ModuleNotFoundError without matplotlib.
    """
    skills = _check(curves, out)
    across = min(len(skills), 3 if len(skills) <= 9 else 4)
    down = math.ceil(len(skills) / across)
    figure = _figure(max(3.6 * across, 5.0), 2.6 * down + 0.8)
    from matplotlib.ticker import MaxNLocator

    panels = figure.subplots(down, across, squeeze=False, sharex=True, sharey=True).ravel()
    for panel, skill in zip(panels, skills, strict=False):
        _draw_skill(panel, skill, curves)
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    for panel in panels[len(skills) :]:
        panel.set_visible(False)
    for panel in panels[max(0, len(skills) - across) : len(skills)]:  # the lowest one of each column
        panel.tick_params(labelbottom=True)
    figure.supxlabel("timestep (0 = before any training); dashed line: the skill's data arrives", fontsize=10)
    figure.supylabel("accuracy, %  (band: ± standard error)", fontsize=10)
    _legend(figure, panels)
    _save(figure, out)


def plot_average(curves: Mapping[str, Curves], out: Path) -> None:
    """Draw the average accuracy over the skills seen so far after each timestep, a line per run.

    The band is ± one standard error of that mean, the skills' eval sets being independent. curves, out, raises: as
    `plot_curves`. Source: the formula `average_accuracy`; Adapt-∞ (arXiv 2410.10636) draws it over timesteps.
    """
    _check(curves, out)
    figure = _figure(5.0, 3.4)
    panel = figure.subplots()
    for index, (label, run) in enumerate(curves.items()):
        _line(panel, index, label, 100 * run.average_accuracy, 100 * _average_stderr(run))
    _finish_one(figure, panel, "average accuracy ± standard error, %")
    _save(figure, out)


def plot_gain(curves: Mapping[str, Curves], reference: Mapping[str, Curves], out: Path) -> None:
    """Draw each run's accuracy relative to a reference run's last one, in %, after each timestep.

    reference: one label -> the curves of, say, a run on all data at once. A skill that the reference never learned
    (accuracy 0) is left out, and the figure says so. curves, out, raises: as `plot_curves`; ValueError too if no
    skill is left. Source: the formula `relative_gain` (Adapt-∞, arXiv 2410.10636).
    """
    _check(curves, out)
    ((name, full),) = reference.items()
    figure = _figure(5.0, 3.4)
    panel = figure.subplots()
    unlearned = [skill for s, skill in enumerate(full.skills) if full.R[-1, s] == 0]
    for index, (label, run) in enumerate(curves.items()):
        gains = relative_gains(run, full)
        if np.isnan(gains).all():
            raise ValueError(
                f"no relative gain to draw: {name} has no accuracy above 0 on a skill of {label}"
            )
        _line(panel, index, label, gains, np.zeros(len(gains)))
    panel.axhline(100, color="#707070", linewidth=1.3, zorder=1.6)
    panel.annotate(
        name,
        (1, 100),
        xycoords=("axes fraction", "data"),
        xytext=(0, 3),
        textcoords="offset points",
        ha="right",
        fontsize=9,
        color="#505050",
    )
    aside = f"; without {', '.join(unlearned)}" if unlearned else ""
    _finish_one(figure, panel, f"relative gain, % of {name}{aside}")
    _save(figure, out)


def relative_gains(run: Curves, full: Curves) -> FloatArray:
    """(T+1,) relative gain after each timestep over the skills that both tested and that `full` has not at 0."""
    shared = [s for s in run.skills if s in full.skills and full.R[-1, full.skills.index(s)] > 0]
    if not shared:
        return np.full(len(run.R), np.nan)
    last = full.R[-1, [full.skills.index(skill) for skill in shared]]
    ours = run.R[:, [run.skills.index(skill) for skill in shared]]
    return np.array([relative_gain(row, last) for row in ours])


def _average_stderr(run: Curves) -> FloatArray:
    """(T+1,) standard error of the average accuracy; NaN where that is."""
    errors = np.full(len(run.R), np.nan)
    for timestep, row in enumerate(run.stderr):
        seen = run.introduced <= timestep
        if seen.any():
            errors[timestep] = math.sqrt(float((row[seen] ** 2).sum())) / seen.sum()
    return errors


def _check(curves: Mapping[str, Curves], out: Path) -> list[str]:
    """The skills to draw. Raises as `plot_curves` says."""
    skills = _all_skills(curves)
    if out.suffix.lower() not in SUFFIXES:
        raise ValueError(f"cannot draw curves as {out.name!r}; name the file {', '.join(SUFFIXES)}")
    if not skills:
        raise ValueError("no curves to draw: no run has evaluated a skill yet")
    return skills


def _figure(width: float, height: float) -> Figure:
    """An empty figure; width and height in inches."""
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("plots need matplotlib: pip install 'lifelong[report]'") from error

    return Figure(figsize=(width, height), dpi=200, layout="constrained")


def _save(figure: Figure, out: Path) -> None:
    """Write a figure with its text as text, and without the date: the same curves give the same file."""
    from matplotlib import rc_context

    date = {".svg": "Date", ".pdf": "CreationDate"}.get(out.suffix.lower())
    with rc_context({"pdf.fonttype": 42, "svg.fonttype": "none", "svg.hashsalt": "lifelong"}):
        figure.savefig(out, metadata={date: None} if date else None)


def _finish_one(figure: Figure, panel: Axes, label: str) -> None:
    from matplotlib.ticker import MaxNLocator

    panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    panel.set_xlabel("timestep (0 = before any training)")
    panel.set_ylabel(label)
    panel.set_ylim(bottom=0)
    panel.grid(axis="y", color="#DDDDDD", linewidth=0.6)
    panel.spines[["top", "right"]].set_visible(False)
    _legend(figure, [panel])


def _legend(figure: Figure, panels: Iterable[Axes]) -> None:
    handles: dict[str, Artist] = {}
    for panel in panels:
        lines, labels = panel.get_legend_handles_labels()
        handles |= dict(zip(labels, lines, strict=True))
    figure.legend(
        list(handles.values()),
        list(handles),
        loc="outside upper center",
        ncols=min(4, len(handles)),
        frameon=False,
        fontsize=10,
    )


def _draw_skill(panel: Axes, skill: str, curves: Mapping[str, Curves]) -> None:
    metric = ""
    arrivals = set()
    for index, (label, run) in enumerate(curves.items()):
        if skill not in run.skills:
            continue
        s = run.skills.index(skill)
        metric = run.metrics[skill]
        _line(panel, index, label, 100 * run.R[:, s], 100 * run.stderr[:, s])
        if not math.isnan(run.introduced[s]):
            arrivals.add(run.introduced[s])
    for timestep in arrivals:
        panel.axvline(timestep, color="#707070", linestyle=(0, (4, 3)), linewidth=1.1, zorder=0)
    panel.set_title(f"{skill} ({metric})", fontsize=10)
    panel.set_ylim(-2, 102)
    panel.grid(axis="y", color="#DDDDDD", linewidth=0.6)
    panel.spines[["top", "right"]].set_visible(False)


def _line(panel: Axes, index: int, label: str, values: FloatArray, stderr: FloatArray) -> None:
    """The line of the index-th run with its band; a timestep without a value is bridged."""
    timesteps, known = np.arange(len(values)), ~np.isnan(values)
    band = np.nan_to_num(stderr)
    colour = _COLOURS[index % len(_COLOURS)]
    panel.fill_between(
        timesteps[known],
        (values - band)[known],
        (values + band)[known],
        color=colour,
        alpha=0.18,
        linewidth=0,
    )
    panel.plot(
        timesteps[known],
        values[known],
        color=colour,
        label=label,
        linestyle=_DASHES[index % len(_DASHES)],
        marker=_MARKERS[index % len(_MARKERS)],
        markersize=4.5,
        linewidth=1.6,
    )


def sparkline_table(curves: Mapping[str, Curves]) -> str:
    """Plain text for a terminal: per skill and run a bar per timestep, first and last accuracy, forgetting.

    curves: label of the run -> its curves. Bars go from 0 to 100 %; "·" = not evaluated; numbers in %.
    """
    rows = [["skill", "run", "R", "first", "last", "forgetting"]]
    for skill in _all_skills(curves):
        for label, run in curves.items():
            if skill not in run.skills:
                continue
            s = run.skills.index(skill)
            known = run.R[~np.isnan(run.R[:, s]), s]
            numbers = [percent(known[0]), percent(known[-1]), percent(run.forgetting[s], sign="+")]
            rows.append([skill, label, _sparkline(run.R[:, s]), *numbers])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row[:3], widths[:3], strict=True)]
        cells += [cell.rjust(width) for cell, width in zip(row[3:], widths[3:], strict=True)]
        lines.append("  ".join(cells))
    return "\n".join(lines) + "\n"


def _sparkline(accuracies: FloatArray) -> str:
    """A bar character per accuracy in [0, 1]."""
    return "".join(
        "·" if math.isnan(value) else _BARS[min(int(value * len(_BARS)), len(_BARS) - 1)]
        for value in accuracies
    )


def _all_skills(curves: Mapping[str, Curves]) -> list[str]:
    return list(dict.fromkeys(skill for run in curves.values() for skill in run.skills))
