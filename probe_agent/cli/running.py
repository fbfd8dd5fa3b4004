"""Running: a training command of the user's, in a session of its own, for the verbs that look at one."""

import os
import signal
import subprocess
import tempfile
from collections.abc import Mapping


def run(command: list[str], environment: Mapping[str, str], timeout: float) -> str:
    """Run it to its end, its children with it; what it said where it failed, else nothing."""
    with tempfile.TemporaryFile() as output:
        try:
            running = subprocess.Popen(  # noqa: S603 - the user's own command
                command, env=os.environ | environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
            )
        except OSError as error:
            return f"{command[0]!r} cannot be run: {error}"
        try:
            code: int | None = running.wait(timeout)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            _end(running)
        if code == 0:
            return ""
        output.seek(0)
        tail = output.read()[-2000:].decode(errors="replace").strip()
    why = f"it took longer than {timeout:g} s (--timeout)" if code is None else f"exit status {code}"
    return f"{why}\n{tail}"


def _end(running: subprocess.Popen[bytes]) -> None:
    try:
        os.killpg(running.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    running.wait()
