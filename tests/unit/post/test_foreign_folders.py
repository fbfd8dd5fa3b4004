"""Who reads spools also deletes there: what is not ours, or was prepared by somebody else, is neither read nor touched."""

import os
from pathlib import Path

import pytest

from probe_post import spools
from probe_post.spool import Message, Spool
from probe_wire import Hello, Run, encode

HELLO = Hello(Run("run-1", "test", "host", 1, 0.0), 3, "epoch-1", 1)
COLLECTOR = "tcp://127.0.0.1:5757"


def left_behind(root: Path) -> Path:
    spool = spools.create(root, COLLECTOR, HELLO, encode(HELLO))
    spool.append(Message(1, None, b"report"))
    spool.close(delete=False)
    return spool.folder


def adopted(root: Path) -> list[Path]:
    """The spools that a job would deliver, as it looks for them."""
    spools.survey(root)
    spools.trim(root, cap=-1)
    found = list(spools.left_behind(root, COLLECTOR))
    for spool in found:
        spool.close(delete=False)
    return [spool.folder for spool in found]


def test_a_folder_with_files_of_ones_own_may_be_named_and_they_stay(tmp_path: Path) -> None:
    files = [tmp_path / "project" / "checkpoints" / "last.pt", tmp_path / "project" / "data" / "digits.csv"]
    for file in files:
        file.parent.mkdir(parents=True)
        file.write_text("precious")
    ours = left_behind(tmp_path)
    assert adopted(tmp_path) == [ours]
    assert [sorted(file.parent.iterdir()) for file in files] == [[file] for file in files], (
        "not even a lock is made there"
    )


@pytest.mark.parametrize("which", ["spool", "home"])
def test_links_are_not_followed(tmp_path: Path, which: str) -> None:
    victim = tmp_path / "victim"
    (victim / "0123456789abcdef").mkdir(parents=True)
    (victim / "thesis.tex").write_text("precious")
    (victim / "0123456789abcdef" / "chapter.tex").write_text("precious")
    root = tmp_path / "root"
    home = left_behind(root).parent
    if which == "spool":
        (home / "fedcba9876543210").symlink_to(victim / "0123456789abcdef")
        assert len(adopted(root)) == 1
    else:
        home.rename(tmp_path / "elsewhere")
        home.symlink_to(victim)
        assert adopted(root) == []
    assert sorted(path.name for path in victim.rglob("*")) == ["0123456789abcdef", "chapter.tex", "thesis.tex"]


def test_what_others_may_have_prepared_is_not_delivered_in_our_name(tmp_path: Path) -> None:
    root = tmp_path / "root"
    folder = left_behind(root)
    root.chmod(0o777)
    assert adopted(root) == []
    assert list(spools.everything(root)) == []
    root.chmod(0o700)
    assert adopted(root) == [folder]


def test_who_shares_a_group_and_lets_it_write_shares_no_spools(tmp_path: Path) -> None:
    former = os.umask(0o002)
    try:
        home = left_behind(tmp_path).parent
    finally:
        os.umask(former)
    assert home.stat().st_mode & 0o077 == 0


def test_a_spool_that_is_delivered_takes_its_own_files_with_it_and_no_others(tmp_path: Path) -> None:
    folder = left_behind(tmp_path)
    (folder / "notes.txt").write_text("precious")
    spool = Spool.adopt(folder)
    assert spool is not None
    spool.close(delete=True)
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]
