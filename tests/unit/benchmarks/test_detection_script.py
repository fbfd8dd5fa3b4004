"""The script that scores the detectors: a quick look writes the tables it prints; recorded logs are read as they are."""

import json
import subprocess
import sys
from pathlib import Path

from against.recorded_losses import losses, recorded

SCRIPT = Path(__file__).parents[3] / "benchmarks" / "detection.py"


def test_a_quick_look_writes_its_scores_with_their_intervals(tmp_path: Path) -> None:
    look = [
        "--seeds",
        "4",
        "--families",
        "peak SNR 50; edge null, below",
        "--far",
        "0",
        "--jobs",
        "1",
        "--out",
        str(tmp_path),
    ]
    done = subprocess.run([sys.executable, str(SCRIPT), *look], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    written = json.loads((tmp_path / "detection.json").read_text())
    patience = written["scores"]["patience of 10"]["peak SNR 50"]["detected"]
    assert patience["runs"] == 4
    assert 0 < patience["bound"] < 2
    assert patience["early"]["interval"][1] > 0.4
    assert written["scores"]["first crossing"]["edge null, below"]["detected"]["early"]["share"] == 0
    page = (tmp_path / "detection.md").read_text()
    assert "patience of 10" in page
    assert "patience of 10" in done.stdout


def test_one_log_a_folder_is_read_and_the_script_printed_before_it_is_not(tmp_path: Path) -> None:
    head = 'print0(f"step:{step+1}/{args.num_iterations} train_loss:{train_loss.item():.4f}")\n'
    lines = "".join(f"step:{i}/1200 train_loss:{5.0 + 0.01 * (i % 7):.4f} train_time:{i}ms\n" for i in range(1, 1201))
    other = "".join(f"s:{i} trl:{4.0:.6f} lr:0.1\n" for i in range(1100))
    for folder, name, text in (("a", "1.txt", head + lines), ("a", "2.txt", lines), ("b", "main.log", other)):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / name).write_text(text)
    (tmp_path / "short").mkdir()
    (tmp_path / "short" / "1.txt").write_text("s:0 trl:4.0 lr:0.1\n")
    curves = list(losses(tmp_path))
    assert [(curve.steps[0], curve.steps.size) for curve in curves] == [(1, 1200), (0, 1100)]
    assert curves[0].values[1] == 5.02
    found = {calls.detector: calls for calls in recorded(tmp_path) if calls.level == "detected"}
    assert found["median + 6 MAD"].steps == 2300
    assert found["median + 6 MAD"].per_thousand[0] == 0.0
