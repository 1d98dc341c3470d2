"""Seconds until `lifelong --help` has answered, beside an interpreter that does nothing.

python benchmarks/help.py [--rounds 20]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.timing import interleaved

HELP = [sys.executable, "-c", "from lifelong.cli import main; main(['--help'])"]
NOTHING = [sys.executable, "-c", "pass"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20)
    rounds = parser.parse_args().rounds

    def run(command: list[str]) -> object:
        return subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

    times = interleaved({"--help": lambda: run(HELP), "python": lambda: run(NOTHING)}, rounds).seconds
    for name, seconds in times.items():
        print(
            f"{name:<8} median {sorted(seconds)[rounds // 2]:.3f} s, {min(seconds):.3f} to {max(seconds):.3f}"
        )


if __name__ == "__main__":
    main()
