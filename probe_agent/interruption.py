"""Interruption: an exception that is meant for the person or the job, wherever in our code it happens to strike."""

import functools
import inspect
import signal
import traceback
from types import CodeType


def is_interruption(error: BaseException) -> bool:
    """Whether it is Ctrl-C, an exit, or what a signal handler of the script's has raised, which may be of any type.

    Python runs a handler between two instructions of whatever the main thread is doing, and that may be a
    probe. What the handler raises (a cluster takes the machine away, a time limit is over) is for the script,
    and must not end as a failed probe.
    """
    if isinstance(error, KeyboardInterrupt | SystemExit):
        return True
    if error.__cause__ is not None and is_interruption(error.__cause__):
        return True  # an estimator has put words of its own around it
    handlers = {code for number in signal.valid_signals() if (code := _code_of(signal.getsignal(number))) is not None}
    return any(frame.f_code in handlers for frame, _ in traceback.walk_tb(error.__traceback__))


def _code_of(handler: object) -> CodeType | None:
    while isinstance(handler, functools.partial):
        handler = handler.func
    if callable(handler) and not (inspect.isroutine(handler) or inspect.isclass(handler)):
        handler = type(handler).__call__
    code = getattr(handler, "__code__", None)
    return code if isinstance(code, CodeType) else None
