"""Made-up input for every part that reads some: ``python -m tests.fuzz --help``."""

import argparse
import sys
import time

from tests.conftest import qemu_programs
from tests.fuzz.explore import SUBJECTS, explore


def main() -> None:
    """Explore subjects in turn; exit with status 1 if a case failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("subjects", metavar="SUBJECT", nargs="*", help=", ".join(SUBJECTS))
    parser.add_argument("--inputs", type=int, default=100_000, help="of all subjects (100000)")
    parser.add_argument("--seed", type=int, help="the first case's; by default the time")
    parser.add_argument("--cases", type=int, help="the most cases of a subject")
    args = parser.parse_args()
    present = [one for one in SUBJECTS if one != "qemu" or qemu_programs()]
    subjects = args.subjects or present
    for subject in subjects:
        if subject not in SUBJECTS:
            parser.error(f"unknown subject '{subject}'; expected {', '.join(SUBJECTS)}")
        if subject not in present:
            parser.error("there is no QEMU to compare with; the variable QEMU can name one")
    first = int(time.time()) * 1000 if args.seed is None else args.seed
    print(f"seeds from {first} on", flush=True)
    shares = sum(SUBJECTS[subject] for subject in subjects)
    outcomes = []
    for subject in subjects:
        inputs = -(-args.inputs * SUBJECTS[subject] // shares)
        outcomes.append(explore(subject, first, inputs, args.cases))
        print(outcomes[-1], flush=True)
    failures = sum(len(one.failures) for one in outcomes)
    print(f"{sum(one.inputs for one in outcomes):,} inputs, {failures} cases failed")
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
