"""Looks for faults in all readers and writers for some minutes: the property-based tests, longer.

    python tests/fuzz.py                          ten minutes
    python tests/fuzz.py --minutes 60 -k mutated  an hour, of tests with a name
    python tests/fuzz.py --seed 123 --minutes 0   one round again

Rounds of HYPOTHESIS_EXAMPLES examples a test (100) until the time is over, each with a seed of its
own, which is printed. Exit code 1 where a round has failed; what failed is printed with how to run
it again, and goes into a test of its own once it is mended.
"""

from __future__ import annotations

import argparse
import os
import re
import secrets
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PLACES = ("tests/faults", "tests/test_hostile_records.py", "tests/test_config.py")
KINDS = ("passing", "failing", "invalid")
# What hypothesis says of a phase of a test: "60 passing, 0 failing, and 3 invalid test cases".
_EXAMPLES = re.compile(r"(\d+) passing(?: examples)?, (\d+) failing\D+?(\d+) invalid")


def run_round(seed: int, examples: int, chosen: str) -> tuple[bool, Counter[str]]:
    """One round: whether all was well, and how many examples there were."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "hypothesis", *PLACES]
    command += [f"--hypothesis-seed={seed}", "--hypothesis-show-statistics", "-k", chosen]
    done = subprocess.run(
        command,
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={"OMP_NUM_THREADS": "1", **os.environ, "HYPOTHESIS_EXAMPLES": str(examples)},
    )
    counts: Counter[str] = Counter()
    for numbers in _EXAMPLES.findall(done.stdout):
        counts.update(dict(zip(KINDS, map(int, numbers), strict=True)))
    if done.returncode:
        print(done.stdout.partition("Hypothesis Statistics")[0][-20_000:], done.stderr[-2000:])
    return done.returncode == 0, counts


def main() -> int:
    """Runs rounds; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=10.0, help="no round begins later (10)")
    parser.add_argument("--seed", type=int, help="of the first round (random)")
    parser.add_argument("-k", default="", metavar="EXPRESSION", help="as pytest's")
    arguments = parser.parse_args()
    examples = int(os.environ.get("HYPOTHESIS_EXAMPLES", "100"))
    began, total, failed, rounds = time.monotonic(), Counter[str](), 0, 0
    while rounds == 0 or time.monotonic() - began < 60 * arguments.minutes:
        seed = secrets.randbits(32) if arguments.seed is None or rounds else arguments.seed
        good, counts = run_round(seed, examples, arguments.k)
        rounds, failed, total = rounds + 1, failed + (not good), total + counts
        shown = ", ".join(f"{total[what]} {what}" for what in KINDS)
        minutes = (time.monotonic() - began) / 60
        print(
            f"round {rounds}, seed {seed}: {'ok' if good else 'FAILED'}; after {minutes:.1f}"
            f" minutes {shown} examples",
            flush=True,
        )
    print(f"{rounds} rounds, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
