"""Runs pytest, and what failed once more, alone: `python -m tests.suite [PYTEST ARGUMENTS]`.

The suite runs real brokers, databases and daemons, several tests at a time; on a busy machine one of them may
answer later than a test waits. Such a test passes alone, and is named at the end: look for what it should wait
for. A fault of the product fails again. More than MAX_AGAIN failures have another cause, and are not run again.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

FAILED = Path(".pytest_cache/v/cache/lastfailed")
MAX_AGAIN = 5
TESTS_FAILED = 1
"""Exit code of pytest when it ran to its end and tests failed."""


def run(arguments: list[str]) -> int:
    return subprocess.run([sys.executable, "-m", "pytest", *arguments], check=False).returncode


def main(arguments: list[str]) -> int:
    """The exit code: 0 where every test passed in the whole run or alone."""
    FAILED.unlink(missing_ok=True)  # else those of another run would be taken for this one's
    code = run(arguments)
    failed = list(json.loads(FAILED.read_text())) if code == TESTS_FAILED and FAILED.exists() else []
    if not 0 < len(failed) <= MAX_AGAIN:
        return code
    print(f"\n{len(failed)} failed beside other tests. Once more, alone:", *failed, sep="\n  ", flush=True)
    code = run([*arguments, "-n", "0", *failed])
    if code == 0:
        print("These passed alone and failed beside others:", *failed, sep="\n  ")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
