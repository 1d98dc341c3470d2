"""The report: one HTML file, whole in itself, that shows what happened to a run.

A module for each thing that it shows; each says in words what is missing instead of failing. `page` puts them
together with the template, the style sheet and the scripts in `assets/`.
"""

from lifelong.report.page import write_report

__all__ = ["write_report"]
