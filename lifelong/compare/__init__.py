"""Recipes compared over one stream: the same model, data, budgets and tests; seeds counted."""

from lifelong.compare.cells import Cell, Plan, named
from lifelong.compare.comparison import Comparison
from lifelong.compare.results import Result, Results, read_results
from lifelong.compare.summary import Summary, summarise

__all__ = ["Cell", "Comparison", "Plan", "Result", "Results", "Summary", "named", "read_results", "summarise"]
