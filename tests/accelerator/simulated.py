"""The device "simulated": an accelerator for machines that have none. Importing this compiles it, and there it is.

What it has in common with a GPU: memory of its own, which operations of the CPU refuse; a global random stream of its own; streams
and events; and that it is still at work when an operation returns, until somebody waits. See `device.cpp`.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import types
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils.cpp_extension import include_paths

SOURCE = Path(__file__).with_name("device.cpp")
KEPT = Path(__file__).parents[2] / ".accelerator"


def _library() -> Path:
    """The device, compiled once for each version of it and of torch."""
    made_of = SOURCE.read_bytes() + f"{torch.__version__} {sys.version}".encode()
    library = KEPT / f"{hashlib.sha256(made_of).hexdigest()[:16]}.so"
    if not library.exists():
        if shutil.which("g++") is None and os.environ.get("PHASEWATCH_TESTS_SKIP_NOTHING") != "1":
            pytest.skip("needs g++, which compiles the simulated device", allow_module_level=True)
        KEPT.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=KEPT) as scratch:
            made = Path(scratch) / library.name
            where = [f"-I{path}" for path in include_paths()]
            linked = [f"-L{Path(torch.__file__).parent / 'lib'}", "-ltorch", "-ltorch_cpu", "-lc10"]
            subprocess.run(
                ["g++", "-std=c++20", "-O0", "-fPIC", "-shared", *where, str(SOURCE), "-o", str(made), *linked],
                check=True,
            )
            made.rename(library)
    return library


torch.ops.load_library(str(_library()))
_device = torch.ops.simulated
_device.start()


def now() -> float:
    """Seconds by the device's clock, which moves when work is launched and waited for, and by `advance`."""
    return float(_device.now())


def advance(seconds: float) -> None:
    """Let time pass."""
    _device.advance(seconds)


def pace(seconds: float) -> None:
    """From here on every operation takes so long."""
    _device.pace(seconds)


def launches() -> int:
    """Operations so far."""
    return int(_device.launches())


def waits() -> int:
    """How often somebody waited for the device so far."""
    return int(_device.waits())


def _module() -> types.ModuleType:
    """What torch looks up as ``torch.simulated``."""
    module = types.ModuleType("torch.simulated")
    generator = _device.default_generator()

    def get_rng_state(device: object = None) -> Tensor:
        return generator.get_state()

    def set_rng_state(state: Tensor, device: object = None) -> None:
        generator.set_state(state)

    offered = {
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "_is_in_bad_fork": lambda: False,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "default_generators": (generator,),
        "manual_seed_all": generator.manual_seed,
        "get_rng_state": get_rng_state,
        "set_rng_state": set_rng_state,
        "get_amp_supported_dtype": lambda: [torch.bfloat16, torch.float16],
        "mem_get_info": lambda _: (2**33 - _device.held(), 2**33),
        "memory_allocated": lambda _: _device.held(),
        "memory_reserved": lambda _: _device.held(),
        "max_memory_allocated": lambda _: _device.most(),
    }
    vars(module).update(offered)
    return module


torch.utils.rename_privateuse1_backend("simulated")
torch._register_device_module("simulated", _module())
torch.utils.generate_methods_for_privateuse1_backend()

DEVICE = torch.device("simulated", 0)
