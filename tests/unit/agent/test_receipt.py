import json
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from probe_agent.errors import AttachError
from probe_agent.receipt import Difference, first_difference, receipt
from probe_agent.receipt import Testimony as OneRun
from probe_agent.witness import VARIABLE, asked_for, conditions, state, streams


def run_of(*steps: dict[str, str]) -> OneRun:
    return OneRun({"rank0-monitor0": steps}, {})


def told(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, str]:
    return dict(conditions(model, optimizer)) | dict(state(model, optimizer))


def trained() -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(4, 3, sparse=True), nn.Flatten(), nn.Linear(6, 2), nn.BatchNorm1d(2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.0)
    model(torch.tensor([[0, 1], [2, 2]])).sum().backward()
    return model, optimizer


def test_the_same_training_gives_the_same_facts() -> None:
    assert told(*trained()) == told(*trained())


@pytest.mark.parametrize(
    ("change", "fact"),
    [
        (lambda m, _: m[2].weight.data.view(-1)[0].copy_(torch.nextafter(m[2].weight.data.view(-1)[0], torch.tensor(9.0))), "parameter 2.weight"),
        (lambda m, _: m[2].bias.data.zero_().neg_(), "parameter 2.bias"),
        (lambda m, _: m[0].weight.grad._values().add_(1), "gradient of 0.weight"),
        (lambda m, _: setattr(m[2].weight, "grad", None), "gradient of 2.weight"),
        (lambda m, _: m[2].weight.requires_grad_(requires_grad=False), "whether 2.weight is trained"),
        (lambda m, _: m[3].num_batches_tracked.add_(1), "buffer 3.num_batches_tracked"),
        (lambda m, _: m[3].eval(), "mode of 3"),
        (lambda m, _: m.register_forward_hook(lambda *_: None), "hooks on the model"),
        (lambda _, o: o.param_groups[0].update(lr=0.2), "optimizer setting lr of group 0"),
        (lambda m, o: o.state[m[2].weight].update(momentum_buffer=torch.ones(2)), "optimizer state momentum_buffer of parameter 1 in group 0"),
    ],
)  # fmt: skip
def test_whatever_is_changed_changes_its_fact(change: object, fact: str) -> None:
    before = told(*trained())
    model, optimizer = trained()
    change(model, optimizer)  # type: ignore[operator]
    after = told(model, optimizer)
    assert [f for f in {**before, **after} if before.get(f) != after.get(f)] == [fact]


def test_bits_are_compared_and_not_values() -> None:
    model = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    seen = set()
    for value in (0.0, -0.0, math.nan, 1.0):
        model.weight.data.fill_(value)
        seen.add(told(model, optimizer)["parameter weight"])
    model.double()
    seen.add(told(model, optimizer)["parameter weight"])
    assert len(seen) == 5
    model.weight.data.fill_(math.nan)
    first = told(model, optimizer)
    assert first == told(model, optimizer), "what is not a number is itself"


def test_a_draw_moves_its_stream_and_no_other() -> None:
    before = dict(streams())
    torch.rand(1)
    after = dict(streams())
    assert [name for name in before if before[name] != after[name]] == ["random stream of torch on the CPU"]


def test_the_first_difference_is_the_earliest_step_and_the_first_fact_of_it() -> None:
    one = run_of({"a": "1", "b": "1"}, {"a": "1", "b": "1"})
    assert first_difference(one, one) is None
    assert first_difference(one, run_of({"a": "1", "b": "1"}, {"a": "2", "b": "2"})) == Difference(
        2, "rank0-monitor0", "a"
    )
    assert first_difference(one, run_of({"a": "1", "b": "1"})) == Difference(2, "rank0-monitor0", "a")
    assert first_difference(one, run_of({"a": "1"}, {"a": "1"})) == Difference(1, "rank0-monitor0", "b")


def test_no_steps_are_no_proof() -> None:
    nothing = OneRun({}, {})
    assert receipt(nothing, nothing, nothing).verdict == "no testimony"
    some = run_of({"a": "1"})
    assert receipt(some, some, nothing).verdict == "no testimony"
    assert receipt(some, some, some).verdict == "identical"
    assert receipt(some, run_of({"a": "2"}), some).verdict == "not repeatable"


def test_only_streams_may_be_unlike_from_the_start() -> None:
    def run(stream: str, moved: str = "False") -> OneRun:
        return run_of({"random stream of Python": stream, "random stream of Python moved": moved})

    assert receipt(run("1"), run("2"), run("3")).verdict == "identical"
    assert receipt(run("1"), run("2"), run("3", "True")).verdict == "differs"


def test_testimonies_are_read_from_a_folder(tmp_path: Path) -> None:
    lines = [{"a": "1"}, {"measured": {"loss": {"times": 2, "seconds": 0.1}}}]
    (tmp_path / "rank0-monitor0.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = OneRun.read(tmp_path)
    assert found.length == 1
    assert found.measured == {"loss": {"times": 2, "seconds": 0.1}}


def test_nothing_is_written_down_unless_it_is_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    model, optimizer = trained()
    monkeypatch.delenv(VARIABLE, raising=False)
    assert asked_for(model, optimizer) is None
    monkeypatch.setenv(VARIABLE, f"sometimes:3:{tmp_path}")
    with pytest.raises(AttachError, match="did not set; unset it"):
        asked_for(model, optimizer)
