"""The networks the costs are measured on, trained for real: a ResNet-18 of width 16, a GPT of four blocks, small ones on digits."""

import copy
import gzip
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from sklearn.datasets import load_digits
from torch import Tensor, nn

from probe_agent.likelihood import Categorical
from probe_agent.probe_set import ProbeSet
from probe_agent.snapshot import Snapshot

VOCABULARY = 65
CONTEXT = 64


def loss_fn(outputs: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy, the mean over all predictions."""
    return F.cross_entropy(outputs.reshape(-1, outputs.shape[-1]), targets.reshape(-1))


@dataclass(slots=True)
class Workload:
    """A network in training, its data, and copies of it as it was at some steps; ``half`` is trained under bfloat16 autocast."""

    name: str
    model: nn.Module
    inputs: Tensor
    targets: Tensor
    optimizer: torch.optim.Optimizer
    batch: int
    half: bool = False
    states: dict[int, dict[str, Tensor]] = field(default_factory=dict)

    def to(self, device: torch.device) -> "Workload":
        """The same on another device; to be moved before it is trained."""
        self.model.to(device)  # in place: the optimizer's parameters are the model's
        self.inputs, self.targets = self.inputs.to(device), self.targets.to(device)
        return self

    def train(self, steps: set[int]) -> "Workload":
        """Train to the last of the steps and keep the weights at each."""
        order = torch.Generator().manual_seed(0)
        for step in range(max(steps) + 1):
            if step in steps:
                self.states[step] = copy.deepcopy(self.model.state_dict())
            self.step(torch.randint(len(self.inputs), (self.batch,), generator=order))()
        return self

    def step(self, index: Tensor | slice) -> Callable[[], None]:
        """One step of training on these samples: the unit of cost."""
        x, y = self.inputs[index], self.targets[index]

        def run() -> None:
            self.model.train()
            self.optimizer.zero_grad()
            loss_fn(self.model(x), y).backward()
            self.optimizer.step()

        return run

    def at(self, step: int, n: int, dtype: torch.dtype = torch.float32) -> "Frozen":
        """The network as it was, with the first n samples."""
        model = copy.deepcopy(self.model)
        model.load_state_dict(self.states[step])
        inputs = self.inputs[:n].to(dtype) if self.inputs.is_floating_point() else self.inputs[:n]
        return Frozen(model.to(dtype).eval(), inputs, self.targets[:n], step)


@dataclass(frozen=True, slots=True)
class Frozen:
    """A network at one step, in evaluation mode, and the batch it is probed on."""

    model: nn.Module
    x: Tensor
    y: Tensor
    step: int

    def snapshot(self) -> Snapshot:
        """As the agent takes it: the copy is part of the cost."""
        return Snapshot.take(self.model, self.step, ProbeSet(self.x, self.y), loss_fn, Categorical(), seed=0)

    def own(self) -> nn.Module:
        """A copy for a peer that changes what it is given."""
        return copy.deepcopy(self.model)


def resnet(images: Path | None) -> Workload:
    """ResNet-18's topology at width 16 with BatchNorm, 3×32×32, SGD with momentum."""
    torch.manual_seed(0)
    x, y = _images(images)
    model = ResNet(16)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    return Workload("ResNet-18 width 16", model, x, y, optimizer, 32)


def gpt(text: Path | None) -> Workload:
    """Four blocks, width 128, four heads, 64 tokens of 65 kinds, AdamW."""
    torch.manual_seed(0)
    x, y = _text(text)
    model = GPT()
    return Workload("GPT 4 blocks", model, x, y, torch.optim.AdamW(model.parameters(), lr=1e-3), 32)


def digits(*widths: int, rate: float = 0.1) -> Workload:
    """A ReLU network on scikit-learn's digits, plain SGD."""
    torch.manual_seed(0)
    found = load_digits()
    x = torch.tensor(found.data, dtype=torch.float32)
    x, y = (x - x.mean()) / x.std(), torch.tensor(found.target)
    order = torch.randperm(len(x))
    layers: list[nn.Module] = []
    for wide, narrow in pairwise(widths):
        layers += [nn.Linear(wide, narrow), nn.ReLU()]
    model = nn.Sequential(*layers[:-1])
    name = "MLP " + "-".join(map(str, widths))
    return Workload(name, model, x[order], y[order], torch.optim.SGD(model.parameters(), lr=rate), 128)


class ResNet(nn.Module):
    """Four stages of two basic blocks (He et al. 2016)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        blocks, before = [], width
        for stage in range(4):
            for place in range(2):
                after = width * 2**stage
                blocks.append(Block(before, after, 2 if stage and not place else 1))
                before = after
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(before, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Images to logits."""
        logits: Tensor = self.head(self.blocks(self.stem(x)).mean((2, 3)))
        return logits


class Block(nn.Module):
    """Two convolutions and a way around them."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(after)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(after)
        self.relu2 = nn.ReLU()
        self.around: nn.Module = nn.Identity()
        if stride > 1 or before != after:
            self.around = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))

    def forward(self, x: Tensor) -> Tensor:
        """The sum of both ways."""
        inner = self.norm2(self.conv2(self.relu1(self.norm1(self.conv1(x)))))
        out: Tensor = self.relu2(inner + self.around(x))
        return out


class GPT(nn.Module):
    """A pre-norm transformer with attention written out, which every peer can differentiate twice."""

    def __init__(self, width: int = 128, blocks: int = 4, heads: int = 4) -> None:
        super().__init__()
        self.token = nn.Embedding(VOCABULARY, width)
        self.place = nn.Embedding(CONTEXT, width)
        self.blocks = nn.Sequential(*(Layer(width, heads) for _ in range(blocks)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, VOCABULARY, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (B, T) to logits (B, T, V)."""
        places = torch.arange(x.shape[-1], device=x.device).expand_as(x)
        logits: Tensor = self.head(self.norm(self.blocks(self.token(x) + self.place(places))))
        return logits


class Layer(nn.Module):
    """Attention and a feed-forward part."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mix, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.rise, self.gelu, self.fall = nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, d) to the same."""
        *lead, t, d = x.shape
        q, k, v = (
            part.reshape(*lead, t, self.heads, d // self.heads).transpose(-2, -3)
            for part in self.mix(self.norm1(x)).chunk(3, -1)
        )
        scores = q @ k.transpose(-1, -2) / (d // self.heads) ** 0.5
        later = torch.ones(t, t, dtype=torch.bool, device=x.device).triu(1)
        mixed = scores.masked_fill(later, -torch.inf).softmax(-1) @ v
        x = x + self.out(mixed.transpose(-2, -3).reshape(*lead, t, d))
        deeper: Tensor = x + self.fall(self.gelu(self.rise(self.norm2(x))))
        return deeper


def _images(path: Path | None) -> tuple[Tensor, Tensor]:
    if path is None:
        found = load_digits()
        x = F.interpolate(torch.tensor(found.images, dtype=torch.float32)[:, None] / 16, size=(32, 32), mode="bilinear")
        y = torch.tensor(found.target)
    else:
        x = F.pad(torch.from_numpy(_idx(path)[:8192].copy()).float()[:, None] / 255, (2, 2, 2, 2))
        labels = path.with_name(path.name.replace("images-idx3", "labels-idx1"))
        y = torch.from_numpy(_idx(labels)[:8192].copy()).long()
    return ((x - x.mean()) / x.std()).repeat(1, 3, 1, 1), y


def _idx(path: Path) -> np.ndarray[Any, np.dtype[np.uint8]]:
    with gzip.open(path) as stream:
        raw = stream.read()
    axes = raw[3]
    shape = np.frombuffer(raw, ">i4", axes, offset=4)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * axes).reshape(tuple(shape))


def _text(path: Path | None) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    if path is None:
        chain = torch.softmax(3 * torch.randn(VOCABULARY, VOCABULARY, generator=generator), -1)
        tokens = [0]
        for _ in range(50_000):
            tokens.append(int(torch.multinomial(chain[tokens[-1]], 1, generator=generator)))
        codes = torch.tensor(tokens)
    else:
        text = path.read_text(encoding="utf-8")
        kinds = {c: i for i, c in enumerate(sorted(set(text)))}
        codes = torch.tensor([kinds[c] for c in text[:500_000]]).clamp(max=VOCABULARY - 1)
    starts = torch.randint(len(codes) - CONTEXT - 1, (4096,), generator=generator)
    windows = torch.stack([codes[s : s + CONTEXT + 1] for s in starts.tolist()])
    return windows[:, :-1].contiguous(), windows[:, 1:].contiguous()
