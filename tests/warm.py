"""Python that begins with its imports done: every process is forked from one that has imported, and is in all else like any other.

``Process(…)`` begins one; ``command(…)`` is what to write for ``sys.executable`` in a command that others start.
"""

import array
import atexit
import builtins
import gc
import io
import json
import os
import select
import signal
import socket
import subprocess
import sys
import types
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
COLLECTOR = "import sys; sys.modules['torch'] = None; from collector.cli import main"
"""What a collector imports; torch cannot be."""
AGENT = (
    "import torch, probe_agent; w = torch.zeros(1, requires_grad=True); (w * w).backward(); torch.optim.SGD([w]).step()"
)
"""What a watched job imports, at its first step too."""
_MESSAGE = 2**20


class Process:
    """As much of `subprocess.Popen` as tests ask for."""

    def __init__(
        self,
        kind: str,
        arguments: Sequence[str],
        *,
        stdout: int | None = None,
        stderr: Any = None,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.args = [sys.executable, *arguments]
        self.returncode: int | None = None
        self.stdout: io.TextIOWrapper | None = None
        told = 1
        if stdout == subprocess.PIPE:
            read, told = os.pipe()
            self.stdout = os.fdopen(read, encoding="utf-8")
        self._talk = _asked(_home(kind), list(arguments), (0, told, 2 if stderr is None else stderr.fileno()), cwd, env)
        if self.stdout is not None:
            os.close(told)
        self.pid = int(self._talk.recv(64))

    def poll(self) -> int | None:
        """The exit status, where it has ended."""
        return self._ended(0)

    def wait(self, timeout: float | None = None) -> int:
        """Its exit status, as soon as it has ended."""
        status = self._ended(timeout)
        if status is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        return status

    def _ended(self, timeout: float | None) -> int | None:
        if self.returncode is None and select.select([self._talk], [], [], timeout)[0]:
            self.returncode = int(self._talk.recv(64))
            self._talk.close()
        return self.returncode

    def send_signal(self, which: int) -> None:
        """A signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, which)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        """SIGTERM."""
        self.send_signal(signal.SIGTERM)


def command(kind: str) -> list[str]:
    """A command that takes a script or ``-c`` and code, its arguments, and runs them where the imports are done."""
    return [sys.executable, "-I", "-S", __file__, _home(kind)]


@cache
def _home(kind: str) -> str:
    """The address at which processes of a kind are forked until this process ends."""
    address = f"phasewatch-tests-{os.getpid()}-{os.urandom(4).hex()}"
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listening.bind("\0" + address)
    listening.listen(64)
    forks = subprocess.Popen(
        [sys.executable, "-m", "tests.warm", str(listening.fileno()), kind],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        pass_fds=[listening.fileno()],
    )
    atexit.register(forks.communicate)
    listening.close()
    return address


def _asked(
    home: str,
    arguments: list[str],
    descriptors: tuple[int, int, int],
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> socket.socket:
    """A connection on which the process's id will be told, and how it ended; closed before, it is killed."""
    talk = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    talk.connect("\0" + home)
    wanted = [arguments, str(cwd or Path.cwd()), dict(os.environ if env is None else env)]
    talk.sendmsg([json.dumps(wanted).encode()], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))])
    return talk


def _client() -> None:
    """What `command` starts: it ends as the process did."""
    talk = _asked(sys.argv[1], sys.argv[2:], (0, 1, 2))
    talk.recv(64)
    status = int(talk.recv(64))
    if status < 0:
        signal.signal(-status, signal.SIG_DFL) if -status != signal.SIGKILL else None
        os.kill(os.getpid(), -status)
    os._exit(status)


def _serve(listening: socket.socket, kind: str) -> None:
    """Fork a guardian for each process. In the process itself this returns when it has run, as an interpreter does."""
    exec(kind, {})  # noqa: S102
    gc.collect()
    gc.freeze()  # the end of a process need not look at what was imported
    while True:
        if listening.fileno() not in select.select([listening.fileno(), 0], [], [])[0]:
            return
        talk, _ = listening.accept()
        message, descriptors, _, _ = socket.recv_fds(talk, _MESSAGE, 3)
        while _reaped():
            pass
        if os.fork() == 0:
            listening.close()
            job = os.fork()
            if job == 0:
                talk.close()
                arguments, cwd, env = json.loads(message)
                _become(descriptors, cwd, env)
                _run(arguments)
                return
            _guard(job, talk, descriptors)
        talk.close()
        for descriptor in descriptors:
            os.close(descriptor)


def _reaped() -> bool:
    try:
        return os.waitpid(-1, os.WNOHANG)[0] != 0
    except ChildProcessError:
        return False


def _guard(job: int, talk: socket.socket, descriptors: list[int]) -> None:
    """Wait for the process, and tell who asked for it; where nobody waits any more, kill it."""
    for descriptor in (*descriptors, 0, 1, 2):
        os.close(descriptor)
    try:
        talk.send(str(job).encode())
        ended = os.pidfd_open(job)
        if ended not in select.select([talk.fileno(), ended], [], [])[0]:
            os.kill(job, signal.SIGKILL)
        how = os.waitid(os.P_PID, job, os.WEXITED | os.WNOWAIT)
        assert how is not None
        talk.send(str(how.si_status if how.si_code == os.CLD_EXITED else -how.si_status).encode())
        talk.recv(1)  # until it was heard the process can be signalled, as any that nobody has waited for
    finally:
        os._exit(0)


def _become(descriptors: list[int], cwd: str, env: dict[str, str]) -> None:
    """What a new process has of its own: input and output, a folder, an environment, random streams that nobody seeded."""
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    for name in ("numpy", "torch"):
        module = sys.modules.get(name)
        if module is not None:
            (module.default_generator if name == "torch" else module.random).seed()


def _run(arguments: list[str]) -> None:
    """Run a script or ``-c`` and code as ``__main__``; what it made lives until the interpreter ends."""
    main = types.ModuleType("__main__")
    if arguments[0] == "-c":
        sys.argv, folder, name, code = ["-c", *arguments[2:]], "", "<string>", arguments[1]
    else:
        sys.argv, name = arguments, arguments[0]
        folder, code = str(Path(name).resolve().parent), Path(name).read_text(encoding="utf-8")
        main.__file__ = name
    sys.orig_argv = [sys.executable, *arguments]
    sys.path[:1] = [folder, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    vars(main)["__builtins__"] = builtins
    sys.modules["__main__"] = main
    exec(compile(code, name, "exec"), vars(main))  # noqa: S102


if __name__ == "__main__":
    if sys.argv[1].isdecimal():
        _serve(socket.socket(fileno=int(sys.argv[1])), sys.argv[2])
    else:
        _client()
