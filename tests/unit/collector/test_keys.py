"""The folder of keys: private, one writer at a time, never half a list."""

import fcntl
import os
import threading
from pathlib import Path

import pytest

from collector import private_folder
from collector.errors import AccessError
from collector.keys import Keys
from collector.private_folder import PrivateFolder
from collector.tokens import Tokens
from probe_wire.agent_key import AgentKey


def test_the_folder_is_made_when_something_is_kept_and_for_its_owner_alone(tmp_path: Path) -> None:
    keys = Keys(tmp_path / "a" / "keys")
    assert not keys.in_use
    assert not (tmp_path / "a").exists(), "a collector that needs no keys leaves nothing behind"
    keys.create("lab")
    assert {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "a").rglob("*")} == {
        "keys": 0o700,
        "agents.json": 0o600,
        "collector.json": 0o600,
    }


@pytest.mark.parametrize("mode", [0o720, 0o702, 0o777])
def test_a_folder_in_which_others_may_write_is_refused(tmp_path: Path, mode: int) -> None:
    Keys(tmp_path / "keys").create("lab")
    (tmp_path / "keys").chmod(mode)
    with pytest.raises(
        AccessError, match=rf"with mode {mode:04o}, so that others may change who is let in; .*chmod 700"
    ):
        Keys(tmp_path / "keys")


def test_keys_and_tokens_that_kubernetes_mounts_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = Keys(tmp_path / "keys").create("lab")
    Tokens(tmp_path / "keys").make()
    for path in (tmp_path / "keys").iterdir():
        path.chmod(0o400)
    (tmp_path / "keys").chmod(0o1777)
    monkeypatch.setattr(os, "geteuid", lambda: 65532)
    assert Keys(tmp_path / "keys").pair().public == key.collector
    assert Tokens(tmp_path / "keys").in_use
    (tmp_path / "keys" / "agents.json").chmod(0o444)
    with pytest.raises(AccessError, match="with mode 0444, so that others may read"):
        Keys(tmp_path / "keys")


def test_every_agent_is_told_the_same_collector_also_after_a_restart(tmp_path: Path) -> None:
    made = [Keys(tmp_path / "keys").create(name).collector for name in ("a", "b")]
    assert made == [Keys(tmp_path / "keys").pair().public] * 2


def test_keys_that_many_make_at_once_are_all_listed(tmp_path: Path) -> None:
    made: list[AgentKey] = []
    threads = [
        threading.Thread(target=lambda n=n: made.append(Keys(tmp_path / "keys").create(f"k{n}"))) for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    listed = Keys(tmp_path / "keys")
    assert {listed.name_of(key.public) for key in made} == {f"k{n}" for n in range(8)}
    assert len({key.collector for key in made}) == 1


def test_a_folder_that_somebody_holds_for_ever_is_an_error_and_not_a_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(private_folder, "LOCK_SECONDS", 0.1)
    (tmp_path / "keys").mkdir(mode=0o700)
    descriptor = os.open(tmp_path / "keys", os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    with pytest.raises(AccessError, match=r"which another process has held for .* seconds. End it"):
        Keys(tmp_path / "keys").create("lab")
    os.close(descriptor)


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        ("agents.json", "[", "list of keys .*agents.json, which is damaged: .* Restore it from a backup"),
        ("agents.json", '[{"name": "x"}]', "list of keys .*agents.json, which is damaged"),
        (
            "collector.json",
            "{}",
            "collector's own key .*collector.json, which is damaged: .* every agent needs a new key",
        ),
    ],
)
def test_a_damaged_file_is_an_error_that_says_what_it_means(tmp_path: Path, file: str, text: str, words: str) -> None:
    Keys(tmp_path / "keys").create("lab")
    (tmp_path / "keys" / file).write_text(text)
    with pytest.raises(AccessError, match=words):
        Keys(tmp_path / "keys").pair()


def test_a_folder_that_cannot_be_made_is_an_error_that_names_the_setting(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(AccessError, match=r"cannot be (used|read): Not a directory"):
        Keys(tmp_path / "file" / "keys").create("lab")


def test_a_reader_never_meets_half_a_file(tmp_path: Path) -> None:
    folder = PrivateFolder(tmp_path / "keys")
    contents = {bytes([letter]) * 3000 for letter in b"ab"}
    with folder.locked():
        folder.replace("x", min(contents))
    stop = threading.Event()

    def replace() -> None:
        while not stop.is_set():
            for content in contents:
                with folder.locked():
                    folder.replace("x", content)

    writer = threading.Thread(target=replace)
    writer.start()
    found = {folder.read("x") for _ in range(300)}
    stop.set()
    writer.join(10)
    assert found <= contents


def test_revoked_keys_stay_listed_and_a_name_may_be_used_again(tmp_path: Path) -> None:
    keys = Keys(tmp_path / "keys")
    first = keys.create("lab")
    keys.revoke("lab")
    second = keys.create("lab")
    again = Keys(tmp_path / "keys")
    assert (again.name_of(first.public), again.knows(first.public)) == (None, True)
    assert again.name_of(second.public) == "lab"
    keys.revoke("lab")
    assert [key.revoked_at is None for key in keys.listed] == [False, False]
    assert keys.in_use, "after the last key is revoked nobody is let in, not everybody"
