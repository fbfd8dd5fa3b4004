"""What holds on an accelerator, in a process of its own: one that has the simulated device has it for good."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.mark.timeout(900)
def test_all_that_is_promised_of_an_accelerator_holds_on_a_simulated_one() -> None:
    beside = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/accelerator"],
        cwd=ROOT,
        env=beside,
        capture_output=True,
        text=True,
        timeout=840,
        check=False,
    )
    if ended.returncode == pytest.ExitCode.NO_TESTS_COLLECTED:
        pytest.skip("needs g++, which compiles the simulated device")
    assert ended.returncode == 0, ended.stdout[-8000:] + ended.stderr[-2000:]
    assert " passed" in ended.stdout
