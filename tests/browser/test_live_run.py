"""The whole stack before a person's eyes: a real run trains, and its transition reaches a page that is already open."""

import subprocess
import sys
from pathlib import Path

from selenium.webdriver import Chrome

from tests.browser.test_page import complaints, page, pytestmark, text, until  # noqa: F401 - fixture and mark
from tests.integration.collector_process import ROOT, CollectorProcess


def test_a_transition_of_a_run_in_training_reaches_an_open_page(page: Chrome, tmp_path: Path) -> None:  # noqa: F811
    with CollectorProcess(tmp_path / "s.db") as collector:
        page.get(collector.page)
        until(lambda: "attach" in text(page, "body"))  # nothing runs yet: the page says how to begin
        command = [
            sys.executable,
            "-m",
            "tests.integration.watched_digits",
            "--steps",
            "6000",
            "--collector",
            collector.inlet,
        ]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=ROOT) as trainer:
            try:
                until(lambda: "digits" in text(page, "main"), 60)  # the list heard of it by itself
                (run,) = collector.get("/api/runs")["runs"]
                page.get(f"{collector.page}/runs/{run['id']}")
                until(lambda: "safe to remove augmentation" in text(page, "main"), 130)
                assert "after critical period" in text(page, "main").lower()
                until(lambda: page.execute_script("return document.querySelectorAll('.uplot canvas').length") >= 2)
            finally:
                trainer.terminate()
        assert complaints(page) == []
