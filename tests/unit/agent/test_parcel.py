"""Parcels: what comes out is what went in, in memory that two processes share."""

import copy
import os
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from probe_agent.parcel import SharedFile, packed, unpacked
from probe_agent.room import UNKNOWN, _control_group, cores, free_bytes

CPU = torch.device("cpu")
NOWHERE = Path("/nowhere")


def there_and_back(content: object) -> Any:
    memory = SharedFile()
    body = packed(content, memory)
    other = SharedFile(memory.descriptor)  # as the worker opens it
    return unpacked(body, other, CPU)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.randn(3, 4, dtype=torch.float64),
        torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        torch.randn(4, 3).t(),
        torch.randn(1, 5).expand(3, 5),
        torch.randn(6)[::2],
        torch.randn(5).to(torch.bfloat16),
        torch.tensor(3),
        torch.tensor([True, False]),
        torch.randn(3, dtype=torch.complex64).conj(),
        torch.zeros(0, 3),
    ],
    ids=lambda t: f"{tuple(t.shape)} {t.dtype}",
)
def test_a_tensor_of_any_layout_keeps_its_numbers_and_its_order(tensor: Tensor) -> None:
    found = there_and_back([tensor, torch.ones(2)])[0]
    assert found.dtype == tensor.dtype
    assert torch.equal(found, tensor)
    assert found.stride() == tensor.clone().stride()


def test_tensors_that_are_one_object_are_one_again() -> None:
    one = nn.Parameter(torch.randn(3))
    found = there_and_back({"a": one, "b": [one], "c": torch.zeros(0), "d": torch.zeros(0)})
    assert found["a"] is found["b"][0]
    assert found["c"] is not found["d"]
    assert isinstance(found["a"], nn.Parameter)


def test_parameters_keep_whether_they_are_trained_and_lose_their_gradients_and_graphs() -> None:
    trained, frozen = nn.Parameter(torch.randn(2)), nn.Parameter(torch.randn(2), requires_grad=False)
    trained.grad = torch.ones(2)
    made = trained * 2
    found = there_and_back([trained, frozen, made])
    assert [t.requires_grad for t in found] == [True, False, False]
    assert found[0].grad is None
    assert torch.equal(found[2], made)


def test_a_model_computes_the_same_on_the_other_side_and_a_closure_keeps_what_it_holds() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.LazyLinear(2))
    x, weights = torch.randn(4, 1, 5, 5), torch.tensor([1.0, 2.0])
    model(x)
    twin, loss = there_and_back((model, lambda outputs: (weights * outputs).sum()))
    model.eval()
    twin.eval()
    assert torch.equal(twin(x), model(x))
    assert loss(model(x)) == (weights * model(x)).sum()


def test_parametrized_modules_travel_though_torch_has_them_refuse() -> None:
    model = nn.Sequential(
        parametrizations.weight_norm(nn.Linear(4, 3)), parametrizations.spectral_norm(nn.Linear(3, 3)), nn.LSTM(3, 2)
    ).eval()
    parametrizations.weight_norm(model[2], "weight_hh_l0")
    twin = there_and_back(model)
    x = torch.randn(5, 4)
    assert torch.equal(twin(x)[0], model(x)[0])
    assert [name for name, _ in twin.named_parameters()] == [name for name, _ in model.named_parameters()]


def test_the_next_parcel_may_be_larger_and_lies_over_the_last() -> None:
    memory = SharedFile()
    other = SharedFile(memory.descriptor)
    first = unpacked(packed([torch.ones(4)], memory), other, CPU)[0]
    second = unpacked(packed([torch.full((100_000,), 2.0)], memory), other, CPU)[0]
    assert second.sum() == 200_000
    assert torch.equal(first, torch.full((4,), 2.0)), "which is why the worker copies what it keeps"


def test_inference_tensors_and_subnormal_numbers_travel() -> None:
    with torch.inference_mode():
        odd = torch.tensor([1e-42, float("nan"), float("inf")])
    found = there_and_back([odd])[0]
    assert torch.equal(found.view(torch.int32), odd.clone().view(torch.int32))


def test_what_cannot_leave_its_process_raises() -> None:
    model = nn.Linear(2, 2)
    model.lock = threading.Lock()
    with pytest.raises(TypeError, match="lock"):
        there_and_back(model)


def test_sparse_tensors_go_the_ordinary_way() -> None:
    sparse = torch.eye(3).to_sparse()
    assert torch.equal(there_and_back([sparse])[0].to_dense(), torch.eye(3))


def test_what_was_packed_is_untouched() -> None:
    model = nn.Linear(3, 2)
    before = copy.deepcopy(model.state_dict())
    packed(model, SharedFile())
    assert all(torch.equal(model.state_dict()[name], before[name]) for name in before)


def test_free_memory_is_a_number_of_bytes_this_machine_can_have() -> None:
    assert 2**20 < free_bytes(CPU) < 2**50


def test_a_container_has_its_limit_less_what_it_uses_and_cannot_drop(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("900\n")
    (tmp_path / "memory.stat").write_text("anon 600\ninactive_file 250\n")
    assert _control_group(tmp_path, NOWHERE) == 350
    (tmp_path / "memory.max").write_text("max\n")
    assert _control_group(tmp_path, NOWHERE) == UNKNOWN


def test_an_older_kernels_control_group_is_read_too(tmp_path: Path) -> None:
    old = tmp_path / "memory"
    old.mkdir()
    (old / "memory.limit_in_bytes").write_text("500\n")
    (old / "memory.usage_in_bytes").write_text("450\n")
    (old / "memory.stat").write_text("total_inactive_file 100\n")
    assert _control_group(tmp_path, NOWHERE) == 150


def test_where_nothing_tells_the_memory_is_not_known(tmp_path: Path) -> None:
    assert _control_group(tmp_path, NOWHERE) == UNKNOWN


def test_limits_of_the_groups_around_the_own_one_count_too(tmp_path: Path) -> None:
    root, own = tmp_path / "fs", tmp_path / "cgroup"
    job = root / "slurm" / "job_7" / "step_0"
    job.mkdir(parents=True)
    own.write_text("0::/slurm/job_7/step_0\n")
    (root / "slurm" / "job_7" / "memory.max").write_text("1000\n")
    (root / "slurm" / "job_7" / "memory.current").write_text("400\n")
    (root / "slurm" / "job_7" / "memory.stat").write_text("inactive_file 0\n")
    (job / "memory.max").write_text("max\n")
    assert _control_group(root, own) == 600
    (root / "slurm" / "job_7" / "cpu.max").write_text("100000 100000\n")
    assert cores(root, own) == 1
    (root / "slurm" / "job_7" / "cpu.max").write_text("max 100000\n")
    assert cores(root, own) == len(os.sched_getaffinity(0))


def test_a_group_of_an_older_kernel_is_found_by_its_controller(tmp_path: Path) -> None:
    root, own = tmp_path / "fs", tmp_path / "cgroup"
    job = root / "memory" / "job"
    job.mkdir(parents=True)
    own.write_text("4:memory:/job\n3:cpu,cpuacct:/job\n")
    (job / "memory.limit_in_bytes").write_text("500\n")
    (job / "memory.usage_in_bytes").write_text("100\n")
    (job / "memory.stat").write_text("total_inactive_file 0\n")
    (root / "cpu" / "job").mkdir(parents=True)
    (root / "cpu" / "job" / "cpu.cfs_quota_us").write_text("150000\n")
    (root / "cpu" / "job" / "cpu.cfs_period_us").write_text("100000\n")
    assert _control_group(root, own) == 400
    assert cores(root, own) == 1
