"""The key file: what is written can be read by its owner alone, and what is no key is refused with what to do."""

import os
import resource
import signal
import struct
from pathlib import Path

import pytest
import zmq
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs
from zmq.utils import z85

from probe_wire.agent_key import Z85_DIGITS, AgentKey, KeyFileError, is_z85_key, write_private


def made(name: str = "lab") -> AgentKey:
    collector, (public, secret) = zmq.curve_keypair()[0], zmq.curve_keypair()
    return AgentKey(name=name, collector=collector.decode(), public=public.decode(), secret=secret.decode())


def test_a_key_comes_back_as_it_was_saved_in_a_file_of_its_owner_alone(tmp_path: Path) -> None:
    key, path = made(), tmp_path / "lab.key"
    before = os.umask(0)
    try:
        key.save(path)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o600
    assert AgentKey.load(path) == key


def test_no_text_of_a_key_shows_its_secret() -> None:
    key = made()
    assert key.secret not in f"{key} {key!r} {[key]}"


def test_a_file_that_is_there_is_never_written_over_nor_a_link_followed(tmp_path: Path) -> None:
    path, elsewhere = tmp_path / "lab.key", tmp_path / "elsewhere"
    path.symlink_to(elsewhere)
    for _ in range(2):
        with pytest.raises(KeyFileError, match=r"lab.key, which exists already; name another or remove it"):
            made().save(path)
    assert not elsewhere.exists()


def test_a_write_that_fails_leaves_no_half_a_key(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, limits[1]))
    try:
        with pytest.raises(KeyFileError, match=r"lab.key, which cannot be written: File too large"):
            made().save(tmp_path / "lab.key")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o620, 0o601, 0o777])
def test_a_file_that_others_may_read_or_change_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "lab.key"
    made().save(path)
    path.chmod(mode)
    with pytest.raises(KeyFileError, match=rf"with mode {mode:04o}, so that others may .* need 0600. Do: chmod 600"):
        AgentKey.load(path)


def test_a_missing_file_a_folder_and_a_device_are_refused(tmp_path: Path) -> None:
    for path, words in (
        (tmp_path / "absent.key", "cannot be read: No such file or directory. Make one where the collector runs"),
        (tmp_path, "cannot be read: Is a directory"),
        (Path("/dev/null"), "which is not a file"),
    ):
        with pytest.raises(KeyFileError, match=words):
            AgentKey.load(path)


def test_a_file_that_is_cut_short_anywhere_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "lab.key"
    made().save(path)
    whole = path.read_bytes().rstrip()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(KeyFileError, match="which is not a whole key"):
            AgentKey.load(path)


@pytest.mark.parametrize("half", ["collector", "public", "secret"])
@pytest.mark.parametrize("text", ["#" * 40, "0" * 39 + " ", "0" * 39 + "é"])
def test_forty_characters_that_are_no_key_are_refused(tmp_path: Path, half: str, text: str) -> None:
    path = tmp_path / "lab.key"
    structs.replace(made(), **{half: text}).save(path)
    with pytest.raises(KeyFileError, match=f"whose '{half}' is not a key in Z85"):
        AgentKey.load(path)


@pytest.mark.parametrize("text", ["[]", "{}", "null", '{"name": "x"}', "not json", "\x00", "[" * 3000])
def test_a_file_of_something_else_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "lab.key"
    write_private(path, text.encode())
    with pytest.raises(KeyFileError, match=r"which is not a whole key: .* probe-collector keys create NAME"):
        AgentKey.load(path)


def test_a_file_too_large_to_be_a_key_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "lab.key"
    write_private(path, bytes(10**6))
    with pytest.raises(KeyFileError, match="of more than 4,096 bytes"):
        AgentKey.load(path)


def test_every_key_that_zeromq_makes_is_one() -> None:
    assert all(is_z85_key(half.decode()) for _ in range(200) for half in zmq.curve_keypair())


@given(st.text(Z85_DIGITS, min_size=40, max_size=40) | st.text(min_size=38, max_size=42))
def test_a_key_is_what_zeromqs_own_decoder_takes(text: str) -> None:
    try:
        bytes_of_it = z85.decode(text.encode("ascii"))
    except (ValueError, KeyError, struct.error):
        bytes_of_it = b""
    assert is_z85_key(text) == (len(bytes_of_it) == 32)
