"""Transformers of torch with padding: what is measured of them is of one function, with gradients and without."""

import warnings
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from probe_agent import ListOutbox, Watch, attach
from probe_agent.probe_set import ProbeSet
from probe_agent.probes.fisher_trace import FisherTrace
from probe_agent.probes.loss import Loss
from probe_agent.schedule import Every
from probe_agent.snapshot import Snapshot
from probe_agent.undisturbed import undisturbed
from probe_wire import Outcome

CPU = torch.device("cpu")
WORDS, WIDTH, PADDING = 9, 8, 0


class Encoder(nn.Module):
    """Tells each word again; padding is masked."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(WORDS, WIDTH, padding_idx=PADDING)
        layer = nn.TransformerEncoderLayer(WIDTH, 2, 16, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1)
        self.out = nn.Linear(WIDTH, WORDS)

    def forward(self, words: Tensor) -> Tensor:
        hidden: Tensor = self.encoder(self.embedding(words), src_key_padding_mask=words == PADDING)
        return self.out(hidden)  # type: ignore[no-any-return]


def sentences() -> Tensor:
    lengths = torch.tensor([6, 2, 4, 3, 5, 1, 6, 2])
    words = torch.randint(1, WORDS, (8, 6), generator=torch.Generator().manual_seed(0))
    return torch.where(torch.arange(6) < lengths[:, None], words, PADDING)


def loss_fn(outputs: Tensor, words: Tensor) -> Tensor:
    return F.cross_entropy(outputs.flatten(0, 1), words.flatten(), ignore_index=PADDING)


def encoder() -> Encoder:
    torch.manual_seed(0)
    return Encoder()


def test_the_fisher_trace_of_padded_sentences_is_measured_and_nobody_is_warned_of_it() -> None:
    model, words, outbox = encoder(), sentences(), ListOutbox()
    watches = [Watch(Every(1), (Loss(), FisherTrace()))]
    optimizer = torch.optim.Adam(model.parameters())
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # torch warns of nested tensors where it takes the short cut
        attach(model, optimizer, loss_fn=loss_fn, probe_batch=(words, words), run="r", outbox=outbox, watches=watches)
    found = {quantity.name: of for quantity, column, of in outbox.drafts[0].columns if not column.labels}
    assert found["fisher_trace"].outcome == Outcome.OK
    assert found["fisher_trace"].value > 0


@pytest.mark.parametrize("grads", [torch.no_grad, torch.enable_grad])
def test_outputs_are_those_of_training_also_where_padding_is(grads: Callable[[], torch.no_grad]) -> None:
    model, words = encoder(), sentences()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    for block in model.encoder.layers:
        block.self_attn.dropout = 0.0
    with undisturbed(CPU, None), grads():
        outputs = Snapshot.take(model, 0, ProbeSet(words, words), loss_fn, None, 0).outputs()
    assert torch.equal(outputs, model.train()(words))


@pytest.mark.parametrize("wanted", ["on", "off"])
def test_the_short_cut_is_as_it_was_afterwards(wanted: str) -> None:
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(wanted == "on")
    try:
        with undisturbed(CPU, None):
            assert not torch.backends.mha.get_fastpath_enabled()
        assert torch.backends.mha.get_fastpath_enabled() is (wanted == "on")
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
