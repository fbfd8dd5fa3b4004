"""``probe-agent spool``: what waits on this machine, for people and programs."""

import json
from pathlib import Path

from typer.testing import CliRunner

from probe_agent.cli import app
from probe_post import spools
from probe_post.spool import Message, Spool
from probe_wire import Hello, Run, encode

COLLECTOR = "tcp://127.0.0.1:9"


def left_behind(tmp_path: Path, epoch: str, count: int = 3) -> Spool:
    hello = Hello(Run("run-1", "a [hostile] name", "host", 1, 0.0), 2, epoch, 1)
    spool = spools.create(tmp_path / "spool", COLLECTOR, hello, encode(hello))
    for seq in range(1, count + 1):
        spool.append(Message(seq, None, b"report"))
    return spool


def run(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["spool", *arguments], env={"COLUMNS": "200"})
    return done.exit_code, done.output


def test_streams_are_listed_with_whose_they_are_and_whether_their_job_is_alive(tmp_path: Path) -> None:
    alive = left_behind(tmp_path, "alive")
    left_behind(tmp_path, "dead").close(delete=False)
    code, text = run("list")
    assert code == 0
    assert "a [hostile] name" in text
    assert "its job is alive" in text
    listed = json.loads(run("list", "--json")[1])
    assert [(each["rank"], each["collector"]) for each in listed] == [(2, COLLECTOR)] * 2
    assert sorted(each["messages"] or 0 for each in listed) == [0, 3]
    alive.close(delete=True)


def test_what_waits_of_a_dead_job_can_be_dropped_and_of_a_living_one_not(tmp_path: Path) -> None:
    alive = left_behind(tmp_path, "alive")
    dead = left_behind(tmp_path, "dead")
    dead.close(delete=False)
    code, text = run("drop", alive.folder.name)
    assert (code, "whose job is alive" in text) == (2, True)
    assert run("drop", dead.folder.name)[0] == 0
    assert not dead.folder.exists()
    assert "which is no stream of" in run("drop", dead.folder.name)[1]
    alive.close(delete=True)


def test_what_cannot_be_delivered_stays_and_the_exit_status_says_so(tmp_path: Path) -> None:
    dead = left_behind(tmp_path, "dead")
    dead.close(delete=False)
    code, text = run("deliver", "--seconds", "1")
    assert code == 1
    assert f"a [hostile] name rank 2: 4 messages for {COLLECTOR}: not delivered, 4 are left" in text
    assert dead.folder.exists()


def test_an_empty_machine_and_a_spool_that_is_off_are_said_in_a_sentence(tmp_path: Path) -> None:
    assert "Nothing waits in" in run("list")[1]
    done = CliRunner().invoke(app, ["spool", "list"], env={"PHASEWATCH_SPOOL": "off"})
    assert (done.exit_code, "nothing waits on disk" in done.output) == (2, True)


def test_nobody_is_told_that_nothing_waits_in_a_folder_that_is_not_looked_into(tmp_path: Path) -> None:
    left_behind(tmp_path, "dead").close(delete=False)
    (tmp_path / "spool").chmod(0o777)
    for arguments in (("list",), ("list", "--json"), ("deliver",), ("drop", "some")):
        code, text = run(*arguments)
        assert (code, "need one that belongs to you" in text) == (2, True)
