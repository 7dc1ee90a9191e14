"""Made-up input for every part that reads some: ``python -m tests.fuzz --help``."""

import argparse
import sys
import time

from tests.fuzz.explore import SUBJECTS, explore


def main() -> None:
    """Explore subjects in turn; exit with status 1 if a case failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("subjects", metavar="SUBJECT", nargs="*", help=", ".join(SUBJECTS))
    parser.add_argument("--seconds", type=float, default=60, help="for all subjects (60)")
    parser.add_argument("--seed", type=int, help="the first case's; by default the time")
    parser.add_argument("--count", type=int, help="the most cases of a subject")
    args = parser.parse_args()
    subjects = args.subjects or SUBJECTS
    for subject in subjects:
        if subject not in SUBJECTS:
            parser.error(f"unknown subject '{subject}'; expected {', '.join(SUBJECTS)}")
    first = int(time.time()) * 1000 if args.seed is None else args.seed
    print(f"seeds from {first} on", flush=True)
    failed = False
    for subject in subjects:
        outcome = explore(subject, first, args.seconds / len(subjects), args.count)
        print(outcome, flush=True)
        failed = failed or bool(outcome.failures)
    sys.exit(failed)


if __name__ == "__main__":
    main()
