"""Recipes compared over one stream: the same model, data, budgets and tests; seeds counted."""

from lifelong.compare.cells import Cell, Plan, run_cells
from lifelong.compare.results import Results, read_results
from lifelong.compare.summary import Summary, summarise

__all__ = ["Cell", "Plan", "Results", "Summary", "read_results", "run_cells", "summarise"]
