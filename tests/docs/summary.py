"""Says at the end of a test run which commands of the documentation were not run, and why."""

from __future__ import annotations

from typing import Any

RAN, NOT_RUN = "documented commands run", "documented commands not run"
"""Names of the properties that the test of a page records."""


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """pytest's hook; works over several processes, since properties travel with the reports."""
    found = [
        item
        for reports in terminalreporter.stats.values()
        for report in reports
        if getattr(report, "when", "") == "call"
        for item in report.user_properties
    ]
    ran = sum(value for name, value in found if name == RAN)
    not_run = [value for name, value in found if name == NOT_RUN]
    if ran:
        terminalreporter.section("documentation")
        terminalreporter.line(f"{ran} commands and snippets run, {len(not_run)} not run or not compared:")
        for each in not_run:
            terminalreporter.line(f"  {each}")
