"""Every kind of training job that PyTorch people write, some steps of each, on data of its own.

A job is given ``watch(model, optimizer, loss_fn, batch)``, to be called where a script would attach.
"""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.checkpoint import checkpoint

STEPS = 5
CLASSES = 3

Watch = Callable[[nn.Module, torch.optim.Optimizer, Callable[[Any, Tensor], Tensor], tuple[Any, Tensor]], None]
Job = Callable[[Watch], None]


def images(n: int = 12) -> tuple[Tensor, Tensor]:
    return torch.randn(n, 1, 8, 8), torch.randint(CLASSES, (n,))


def batches(x: Tensor, y: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Drawn from the global stream, as a shuffling loader does."""
    for _ in range(STEPS):
        at = torch.randint(len(x), (6,))
        yield x[at], y[at]


def plain(model: nn.Module, optimizer: torch.optim.Optimizer, watch: Watch, x: Tensor, y: Tensor) -> None:
    watch(model, optimizer, F.cross_entropy, (x, y))
    for some, labels in batches(x, y):
        optimizer.zero_grad()
        F.cross_entropy(model(some), labels).backward()
        optimizer.step()


def mlp_with_batch_norm_and_dropout(watch: Watch) -> None:
    x, y = images()
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.ReLU(inplace=True), nn.Dropout(0.3), nn.Linear(8, CLASSES)
    )
    plain(model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), watch, x, y)


def convolutional(watch: Watch) -> None:
    x, y = images()
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout2d(0.2), nn.Flatten(), nn.Linear(36, CLASSES)
    )
    plain(model, torch.optim.AdamW(model.parameters()), watch, x, y)


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.norm2 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)), inplace=True))))


def residual(watch: Watch) -> None:
    x, y = images()
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), Block(4), Block(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, CLASSES)
    )
    plain(model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True), watch, x, y)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True, norm_first=True)
        self.encoder, self.head = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.squeeze(1)
        mixed = F.scaled_dot_product_attention(rows, rows, rows, dropout_p=0.1 if self.training else 0.0)
        return self.head(self.encoder(mixed).mean(1))


def transformer(watch: Watch) -> None:
    x, y = images()
    model = Attention()
    plain(model, torch.optim.AdamW(model.parameters(), lr=1e-3), watch, x, y)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head = nn.LSTM(8, 6, 2, batch_first=True, dropout=0.2), nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x.squeeze(1))[0][:, -1])


def recurrent(watch: Watch) -> None:
    x, y = images()
    model = Recurrent()
    plain(model, torch.optim.RMSprop(model.parameters(), lr=1e-3), watch, x, y)


class Tied(nn.Module):
    """Embedding and head share their weight."""

    def __init__(self, *, sparse: bool = False) -> None:
        super().__init__()
        self.embed, self.mix = nn.Embedding(CLASSES, 6, sparse=sparse), nn.Linear(6, 6)

    def forward(self, tokens: Tensor) -> Tensor:
        return F.linear(self.mix(self.embed(tokens)).mean(1), self.embed.weight)


def tied_weights(watch: Watch) -> None:
    model = Tied()
    tokens = torch.randint(CLASSES, (12, 4))
    plain(model, torch.optim.Adam(model.parameters()), watch, tokens, tokens[:, 0])


def shared_modules(watch: Watch) -> None:
    x, y = images()
    inner = nn.Linear(8, 8)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), inner, nn.Tanh(), inner, nn.Linear(8, CLASSES))
    plain(model, torch.optim.SGD(model.parameters(), lr=0.1), watch, x, y)


def unused_and_frozen(watch: Watch) -> None:
    x, y = images()
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, CLASSES))
    model.register_parameter("unused", nn.Parameter(torch.ones(3)))
    model[1].requires_grad_(requires_grad=False)
    plain(model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.5), watch, x, y)


class Sparse(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.EmbeddingBag(20, 6, sparse=True), nn.Linear(6, CLASSES)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.embed(tokens))


def sparse_embedding(watch: Watch) -> None:
    tokens, y = torch.randint(20, (12, 4)), torch.randint(CLASSES, (12,))
    model = Sparse()
    plain(model, torch.optim.SGD(model.parameters(), lr=0.1), watch, tokens, y)


class TwoOutputs(nn.Module):
    def __init__(self, kind: type) -> None:
        super().__init__()
        self.body, self.one, self.other = nn.Linear(64, 8), nn.Linear(8, CLASSES), nn.Linear(8, 1)
        self.kind = kind

    def forward(self, x: Tensor) -> Any:
        h = self.body(x.flatten(1)).relu()
        one, other = self.one(h), self.other(h)
        return {"logits": one, "size": other} if self.kind is dict else (one, other)


def _two_losses(outputs: Any, y: Tensor) -> Tensor:
    one, other = outputs.values() if isinstance(outputs, dict) else outputs
    return F.cross_entropy(one, y) + 0.1 * other.square().mean()


def _several_outputs(kind: type) -> Job:
    def job(watch: Watch) -> None:
        x, y = images()
        model = TwoOutputs(kind)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        watch(model, optimizer, _two_losses, (x, y))
        for some, labels in batches(x, y):
            optimizer.zero_grad()
            _two_losses(model(some), labels).backward()
            optimizer.step()

    return job


def adversarial(watch: Watch) -> None:
    """Two networks, two optimizers, two monitors."""
    x, _ = images()
    real = x.flatten(1)
    maker = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 64))
    judge = nn.Sequential(nn.Linear(64, 8), nn.LeakyReLU(0.2), nn.Dropout(0.2), nn.Linear(8, 1))
    making = torch.optim.Adam(maker.parameters(), betas=(0.5, 0.9))
    judging = torch.optim.Adam(judge.parameters(), betas=(0.5, 0.9))
    loss = F.binary_cross_entropy_with_logits
    watch(judge, judging, loss, (real, torch.ones(len(real), 1)))
    watch(maker, making, F.mse_loss, (torch.randn(12, 4), real))
    for _ in range(STEPS):
        made = maker(torch.randn(12, 4))
        judging.zero_grad()
        (loss(judge(real), torch.ones(12, 1)) + loss(judge(made.detach()), torch.zeros(12, 1))).backward()
        judging.step()
        making.zero_grad()
        loss(judge(made), torch.ones(12, 1)).backward()
        making.step()


class Twice(torch.optim.SGD):
    """An optimizer whose step is that of its parent and something more."""

    def step(self, closure: Any = None) -> Any:
        found = super().step(closure)
        with torch.no_grad():
            for group in self.param_groups:
                for p in group["params"]:
                    p.mul_(0.999)
        return found


def optimizer_that_calls_its_parents_step(watch: Watch) -> None:
    x, y = images()
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, CLASSES))
    plain(model, Twice(model.parameters(), lr=0.1), watch, x, y)


def gradient_accumulation(watch: Watch) -> None:
    x, y = images()
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, CLASSES))
    optimizer = torch.optim.AdamW(model.parameters())
    watch(model, optimizer, F.cross_entropy, (x, y))
    for i, (some, labels) in enumerate(batches(x, y)):
        (F.cross_entropy(model(some), labels) / 2).backward()
        if i % 2:
            nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            optimizer.step()
            optimizer.zero_grad()


def bfloat16_autocast(watch: Watch) -> None:
    x, y = images()
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.LayerNorm(144), nn.Linear(144, CLASSES))
    optimizer = torch.optim.AdamW(model.parameters())
    watch(model, optimizer, F.cross_entropy, (x, y))
    for some, labels in batches(x, y):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = F.cross_entropy(model(some), labels)
        loss.backward()
        optimizer.step()


def gradient_scaler(watch: Watch) -> None:
    """One step overflows and is skipped."""
    x, y = images()
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, CLASSES))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    watch(model, optimizer, F.cross_entropy, (x, y))
    for i, (some, labels) in enumerate(batches(x, y)):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(some), labels) * (float("inf") if i == 2 else 1.0)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()


def compiled(watch: Watch) -> None:
    """By a backend that needs no compiler; frames and graph breaks are counted all the same."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    x, y = images()
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, CLASSES))
    fast = torch.compile(model, backend="aot_eager")
    plain(fast, torch.optim.SGD(model.parameters(), lr=0.1), watch, x, y)


class Checkpointed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.head = nn.Sequential(nn.Linear(64, 8), nn.Dropout(0.2), nn.ReLU()), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(checkpoint(self.inner, x.flatten(1), use_reentrant=False))


def gradient_checkpointing(watch: Watch) -> None:
    x, y = images()
    model = Checkpointed()
    plain(model, torch.optim.SGD(model.parameters(), lr=0.1), watch, x, y)


def moving_averages(watch: Watch) -> None:
    """Stochastic weight averaging, and an exponential average by hand."""
    x, y = images()
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, CLASSES))
    averaged, mean = AveragedModel(model), copy.deepcopy(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watch(model, optimizer, F.cross_entropy, (x, y))
    for some, labels in batches(x, y):
        optimizer.zero_grad()
        F.cross_entropy(model(some), labels).backward()
        optimizer.step()
        averaged.update_parameters(model)
        with torch.no_grad():
            for ours, theirs in zip(mean.parameters(), model.parameters(), strict=True):
                ours.lerp_(theirs, 0.1)


def closure(watch: Watch) -> None:
    """LBFGS evaluates the loss several times a step."""
    x, y = images()
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Tanh(), nn.Linear(8, CLASSES))
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=3)
    watch(model, optimizer, F.cross_entropy, (x, y))
    for some, labels in batches(x, y):

        def evaluate(some: Tensor = some, labels: Tensor = labels) -> Tensor:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(some), labels)
            loss.backward()
            return loss

        optimizer.step(evaluate)


def gradual_unfreezing(watch: Watch) -> None:
    x, y = images()
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, CLASSES))
    model[1].requires_grad_(requires_grad=False)
    optimizer = torch.optim.SGD(model[3].parameters(), lr=0.1, momentum=0.9)
    watch(model, optimizer, F.cross_entropy, (x, y))
    for i, (some, labels) in enumerate(batches(x, y)):
        if i == 2:
            model[1].requires_grad_()
            optimizer.add_param_group({"params": list(model[1].parameters()), "lr": 0.01})
        optimizer.zero_grad()
        F.cross_entropy(model(some), labels).backward()
        optimizer.step()


JOBS: dict[str, Job] = {
    "MLP with BatchNorm and dropout": mlp_with_batch_norm_and_dropout,
    "convolutional": convolutional,
    "residual": residual,
    "transformer with SDPA": transformer,
    "recurrent": recurrent,
    "tied weights": tied_weights,
    "shared modules": shared_modules,
    "unused and frozen parameters": unused_and_frozen,
    "sparse embedding": sparse_embedding,
    "outputs in a dict": _several_outputs(dict),
    "outputs in a tuple": _several_outputs(tuple),
    "GAN": adversarial,
    "optimizer that calls its parent's step": optimizer_that_calls_its_parents_step,
    "gradient accumulation": gradient_accumulation,
    "bfloat16 autocast": bfloat16_autocast,
    "GradScaler": gradient_scaler,
    "compiled": compiled,
    "gradient checkpointing": gradient_checkpointing,
    "moving averages": moving_averages,
    "LBFGS": closure,
    "gradual unfreezing": gradual_unfreezing,
}
