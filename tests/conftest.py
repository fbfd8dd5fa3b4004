"""What every test shares: a header of versions, and in CI the rule that nothing may be skipped."""

import os
import platform
import shutil
import sqlite3
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # small tensors: more threads only wait for each other

STRICT = os.environ.get("PHASEWATCH_TESTS_SKIP_NOTHING") == "1"


def pytest_report_header() -> str:
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "numpy", "pyzmq", "msgspec", "starlette"))
    servers = (
        ", ".join(name for name in ("prometheus", "prometheus-alertmanager", "chromium") if shutil.which(name))
        or "none"
    )
    return f"python {platform.python_version()}, sqlite {sqlite3.sqlite_version}, {packages}; real servers: {servers}"


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> object:
    outcome = yield
    report = outcome.get_result()
    if STRICT and report.skipped:
        report.outcome = "failed"
        report.longrepr = f"skipped where nothing may be skipped: {report.longrepr}"
    return report


@pytest.fixture(autouse=True, scope="session")
def _nothing_of_the_user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No setting of the person who runs the tests reaches them, and nothing they leave behind is delivered by that person's jobs."""
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith("PHASEWATCH_") and name != "PHASEWATCH_TESTS_SKIP_NOTHING":
                patch.delenv(name)
        patch.setenv("PHASEWATCH_SPOOL", str(tmp_path_factory.mktemp("spools")))
        yield


@pytest.fixture(autouse=True)
def _own_spool(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No report that another test left behind."""
    monkeypatch.setenv("PHASEWATCH_SPOOL", str(tmp_path / "spool"))


sys.dont_write_bytecode = True
