"""Witness: writes down, before every optimizer step, what training is made of, so that two runs can be compared.

One line of JSON a step: a short digest of every parameter, buffer, gradient and tensor of the optimizer's
state, of the random streams, of what the model was last given, of modes, hooks and switches. A `Receipt` is
two such testimonies, of a run with the agent and one without. It is asked for by ``$PHASEWATCH_VERIFY``, which
``probe-agent verify`` sets; without that nothing here runs.
"""

import hashlib
import json
import os
import random
import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn

from probe_agent import accelerator
from probe_agent.errors import AttachError
from probe_agent.outbox import ListOutbox
from probe_agent.run import rank
from probe_wire import Outcome

VARIABLE = "PHASEWATCH_VERIFY"
WITH, WITHOUT = "with", "without"

_numbers = count()


@final
class Witness:
    """Writes ``steps`` lines to a file of its own in ``folder``, and one with what was measured; then ends the process.

    Both runs have one, so that what it does itself is the same in both.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, folder: Path, steps: int, way: str) -> None:
        self.watching = way == WITH
        self.outbox = ListOutbox()
        self._model, self._optimizer = model, optimizer
        self._left = steps
        self._given = ""
        self._streams = dict(streams())
        self._file = (folder / f"rank{rank()}-monitor{next(_numbers)}.jsonl").open("w", encoding="utf-8")
        optimizer.register_step_pre_hook(self._before_step)
        model.register_forward_pre_hook(self._before_forward, with_kwargs=True)

    def _before_forward(self, _: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
        self._given = _digest_of((args, kwargs))

    def _before_step(self, *_: object) -> None:
        if self._left == 0:
            self._tell({"measured": self._measured()})
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
            os._exit(0)  # at this step in every run, whatever the script would do when it is interrupted
        self._left -= 1
        now = dict(streams())
        moved = {f"{stream} moved": str(state != self._streams.get(stream)) for stream, state in now.items()}
        self._streams = now
        # What may be the cause of others comes first: it is the one that is named.
        between = moved | now | {"inputs": self._given}
        self._tell(dict(conditions(self._model, self._optimizer)) | between | dict(state(self._model, self._optimizer)))

    def _tell(self, line: dict[str, Any]) -> None:
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()

    def _measured(self) -> dict[str, dict[str, float]]:
        """Of each probe how often it ran, how often well, and for how long."""
        found: dict[str, dict[str, float]] = {}
        for draft in self.outbox.drafts:
            for cost in draft.costs:
                of = found.setdefault(cost.probe, {"times": 0, "seconds": 0.0})
                of["times"] += 1
                of["seconds"] += cost.seconds
                outcome = Outcome(cost.outcome).name.lower()
                of[outcome] = of.get(outcome, 0) + 1
        return found


def asked_for(model: nn.Module, optimizer: torch.optim.Optimizer) -> Witness | None:
    """The witness that the environment asks for: ``with:STEPS:FOLDER`` or ``without:STEPS:FOLDER``."""
    wish = os.environ.get(VARIABLE)
    if not wish:
        return None
    way, _, rest = wish.partition(":")
    steps, _, folder = rest.partition(":")
    if way not in (WITH, WITHOUT) or not steps.isdigit() or not Path(folder).is_dir():
        raise AttachError(f"Got {VARIABLE}={wish!r}, which `probe-agent verify` did not set; unset it.")
    return Witness(model, optimizer, Path(folder), int(steps), way)


def conditions(model: nn.Module, optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, str]]:
    """How training is set up, by name: modes, hooks, switches, settings of the optimizer, and what is trained."""
    for name, module in model.named_modules():
        where = name or "the model"
        yield f"mode of {where}", "training" if module.training else "evaluation"
        tables = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks)  # noqa: SLF001 - no public count
        yield f"hooks on {where}", ", ".join(str(len(table)) for table in tables)
    yield from _switches()
    for g, group in enumerate(optimizer.param_groups):
        for key, value in group.items():
            if key != "params":
                yield f"optimizer setting {key} of group {g}", _digest_of(value)
    for name, p in model.named_parameters():
        yield f"whether {name} is trained", str(p.requires_grad)


def state(model: nn.Module, optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, str]]:
    """What training has come to, by name, and a digest of each: parameters, buffers, the optimizer's state, gradients."""
    for name, p in model.named_parameters():
        yield f"parameter {name}", _digest_of(p)
    for name, b in model.named_buffers():
        yield f"buffer {name}", _digest_of(b)
    for g, group in enumerate(optimizer.param_groups):
        for i, p in enumerate(group["params"]):
            for key, value in optimizer.state.get(p, {}).items():
                yield f"optimizer state {key} of parameter {i} in group {g}", _digest_of(value)
    for name, p in model.named_parameters():
        yield f"gradient of {name}", _digest_of(p.grad)


def streams() -> Iterator[tuple[str, str]]:
    """The random streams of the process, and a digest of where each stands."""
    yield "random stream of Python", _digest_of(random.getstate())
    if "numpy" in sys.modules:
        yield "random stream of numpy", _digest_of(sys.modules["numpy"].random.get_state())
    yield "random stream of torch on the CPU", _digest_of(torch.get_rng_state())
    for device in accelerator.all_devices():
        yield f"random stream of torch on {device}", _digest_of(accelerator.random_state(device))


def _switches() -> Iterator[tuple[str, str]]:
    yield "gradients enabled", str(torch.is_grad_enabled())
    kinds = ["cpu", *sorted({device.type for device in accelerator.all_devices()})]
    yield "autocast", str([torch.is_autocast_enabled(kind) for kind in kinds])
    yield "threads", str(torch.get_num_threads())
    yield "default type", str(torch.get_default_dtype())
    yield "deterministic algorithms", str(torch.are_deterministic_algorithms_enabled())
    yield "cuDNN", str((torch.backends.cudnn.enabled, torch.backends.cudnn.benchmark))
    if (dynamo := sys.modules.get("torch._dynamo.utils")) is not None:
        for what, counted in dynamo.counters.items():
            yield f"compilation, {what}", json.dumps(counted, sort_keys=True)


def _digest_of(value: object) -> str:
    """Eight bytes that tell two values apart: types, shapes and every bit of the numbers."""
    digest = hashlib.blake2b(digest_size=8)
    for part in _bytes_of(value):
        digest.update(part)
    return digest.hexdigest()


def _bytes_of(value: object) -> Iterator[bytes]:
    if isinstance(value, Tensor):
        yield f"{value.dtype} {tuple(value.shape)} {value.layout} ".encode()
        if value.is_sparse:
            yield from _bytes_of(value._indices())  # noqa: SLF001 - the public ones are refused before coalescing
            yield from _bytes_of(value._values())  # noqa: SLF001
        elif value.layout is torch.strided and value.device.type != "meta":
            local = value.to_local() if hasattr(value, "to_local") else value
            yield local.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
    elif hasattr(value, "tobytes"):  # a numpy array
        yield value.tobytes()
    elif isinstance(value, dict):
        for key, each in value.items():
            yield repr(key).encode()
            yield from _bytes_of(each)
    elif isinstance(value, list | tuple):
        yield f"{len(value)} ".encode()
        for each in value:
            yield from _bytes_of(each)
    elif isinstance(value, bool | int | float | str | bytes | complex | None):
        yield repr(value).encode()
    else:
        yield type(value).__name__.encode()  # an object of the script's, whose inside is its own affair
