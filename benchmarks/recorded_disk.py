"""What a disk may hold after a power cut: the writes of a process as strace saw them, put together again up to any moment.

A file holds all that was written before its last sync. Of each later write it holds all, nothing, or some sectors, at random: that is what
caches and reordering leave (Pillai et al., 2014, "All file systems are not created equal", OSDI, section 2). Directories are taken to be durable
at once, which journalled file systems nearly are.
"""

import random
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

STRACE = (
    "strace", "-f", "-qq", "-ttt", "-y", "-xx", "-s", "4000000",
    "-e", "trace=openat,lseek,write,pwrite64,ftruncate,fsync,fdatasync,rename,unlink,unlinkat",
)  # fmt: skip
SECTOR = 512
_LINE = re.compile(r"^(?P<pid>\d+) +(?P<at>[\d.]+) (?P<rest>.*)$")
_CALL = re.compile(r"^(?P<name>\w+)\((?P<given>.*)\) += +(?P<result>-?\d+)")
_FD = re.compile(r"^(?P<number>\d+)<(?P<path>[^>]*)>")
_HEX = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')


class Done(NamedTuple):
    """One thing that was done to a file: ``write`` of data at an offset, ``cut`` to a length, ``sync``, ``rename`` to, or ``unlink``."""

    at: float
    what: str
    path: str
    offset: int = 0
    data: bytes = b""
    to: str = ""


def recorded(trace: Path, folder: Path) -> list[Done]:
    """What a process and its threads did to the files of a folder, in order."""
    offsets: dict[str, int] = {}
    calls = (_done(call, offsets) for call in _calls(trace) if call.result >= 0)
    return [done for done in calls if done is not None and done.path.startswith(str(folder))]


def _done(call: "_Call", offsets: dict[str, int]) -> Done | None:
    """What a call did; ``offsets`` says where each open file is written to next."""
    named = [_text(each) for each in _HEX.findall(call.given)]
    if call.name == "openat":
        offsets[f"{call.result}"] = 0
        return Done(call.at, "cut", named[0]) if "O_TRUNC" in call.given else None
    if call.name in ("rename", "unlink", "unlinkat"):
        return Done(call.at, call.name[:6], named[0], to=named[-1])
    if (on := _FD.match(call.given)) is None:
        return None
    number, path = on["number"], _text(on["path"])
    numbers = re.findall(r", (\d+)", _HEX.sub("", call.given))
    if call.name == "lseek":
        offsets[number] = call.result
        return None
    if call.name in ("fsync", "fdatasync"):
        return Done(call.at, "sync", path)
    if call.name == "ftruncate":
        return Done(call.at, "cut", path, int(numbers[0]))
    quoted = _HEX.search(call.given)
    data = bytes.fromhex(quoted[1].replace("\\x", ""))[: call.result] if quoted else b""
    if call.name == "pwrite64":
        return Done(call.at, "write", path, int(numbers[-1]), data)
    offset = offsets.get(number, 0)
    offsets[number] = offset + len(data)
    return Done(call.at, "write", path, offset, data)


class Disk:
    """The files of a folder as the record goes on, with what is not synced yet kept apart."""

    def __init__(self) -> None:
        self._durable: dict[str, bytearray] = {}
        self._since: dict[str, list[Done]] = {}

    def do(self, done: Done) -> None:
        """The next thing that was done."""
        if done.what == "sync":
            for each in self._since.pop(done.path, []):
                _apply(self._durable.setdefault(each.path, bytearray()), each)
        elif done.what == "rename":
            for table in (self._durable, self._since):
                table.pop(done.to, None)
                if done.path in table:
                    table[done.to] = table.pop(done.path)  # type: ignore[assignment]  # of the same kind
            self._since[done.to] = [each._replace(path=done.to) for each in self._since.get(done.to, [])]
        elif done.what == "unlink":
            self._durable.pop(done.path, None)
            self._since.pop(done.path, None)
        else:
            self._durable.setdefault(done.path, bytearray())
            self._since.setdefault(done.path, []).append(done)

    def cut_power(self, folder: Path, into: Path, chance: random.Random) -> int:
        """Write to ``into`` what the folder may hold now; how many writes were lost or torn."""
        shutil.rmtree(into, ignore_errors=True)
        harmed = 0
        for path, durable in self._durable.items():
            content = bytearray(durable)
            for each in self._since.get(path, []):
                fate = chance.choice(["kept", "lost", "torn"])
                harmed += fate != "kept"
                if fate == "kept":
                    _apply(content, each)
                elif fate == "torn" and each.what == "write":
                    for start in range(0, len(each.data), SECTOR):
                        if chance.random() < 0.5:
                            _apply(
                                content,
                                each._replace(offset=each.offset + start, data=each.data[start : start + SECTOR]),
                            )
            target = into / Path(path).relative_to(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
        return harmed


def _apply(content: bytearray, done: Done) -> None:
    if done.what == "cut":
        del content[done.offset :]
        content.extend(bytes(done.offset - len(content)))
        return
    content.extend(bytes(max(0, done.offset - len(content))))
    content[done.offset : done.offset + len(done.data)] = done.data


class _Call(NamedTuple):
    """A call that ended: when, its name, what it was given, what it returned."""

    at: float
    name: str
    given: str
    result: int


def _calls(trace: Path) -> Iterator[_Call]:
    begun: dict[str, str] = {}
    with trace.open(encoding="ascii", errors="replace") as lines:
        for line in lines:
            if (seen := _LINE.match(line)) is None:
                continue
            rest = seen["rest"]
            if rest.endswith("<unfinished ...>"):
                begun[seen["pid"]] = rest.removesuffix("<unfinished ...>").rstrip()
                continue
            if rest.startswith("<... "):
                rest = begun.pop(seen["pid"], "") + rest.split("resumed>", 1)[1]
            if (call := _CALL.match(rest)) is not None:
                yield _Call(float(seen["at"]), call["name"], call["given"], int(call["result"]))


def _text(hexadecimal: str) -> str:
    if "\\x" not in hexadecimal:
        return hexadecimal
    return bytes.fromhex(hexadecimal.replace("\\x", "")).decode(errors="replace")
