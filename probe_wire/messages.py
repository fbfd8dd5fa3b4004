"""The messages both sides speak: a law of its own, changed only by appending fields with defaults.

Agent to collector: Hello, Schema, Report, Goodbye. Collector to agent: Ack, Nack, Advice, Tighten.

Report and Goodbye are numbered from 1 in each *stream* (one rank of one run in one life of its
process, named by the epoch). The collector acknowledges the highest number it has committed; the
agent keeps what is not acknowledged and sends it again. A Schema names columns once; each Report
then carries plain arrays against it.
"""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

MAX_MESSAGE_BYTES = 2**20
MAX_COLUMNS = 4096
MAX_REPORTS = 2**32 - 1
"""Of one stream: at one a second, 136 years."""

Name = Annotated[str, Meta(min_length=1, max_length=200)]
Text = Annotated[str, Meta(max_length=2000)]
# \Z and not $, which lets a line break at the end pass.
Identifier = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_.:-]+\Z")]
QuantityName = Annotated[str, Meta(min_length=1, max_length=100, pattern=r"^[a-z][a-z0-9_]*\Z")]
Count = Annotated[int, Meta(ge=0, le=2**62)]
Number = Annotated[int, Meta(ge=1, le=MAX_REPORTS)]
Moment = Annotated[float, Meta(ge=-1e11, le=1e11)]
"""Unix seconds, three thousand years either way; not a NaN."""
Labels = Annotated[dict[QuantityName, Name], Meta(max_length=16)]
Settings = Annotated[dict[QuantityName, Name], Meta(max_length=32)]


class Quantity(msgspec.Struct, frozen=True, array_like=True):
    """Something measurable: declared once by its probe, read by everyone downstream.

    ``unit`` is "1" for a pure number, "ratio" for 0 to 1, else a base unit in the plural ("nats",
    "seconds", "regions"). ``scale`` is the axis that shows it best. ``title`` heads its chart.
    """

    name: QuantityName
    unit: Annotated[str, Meta(max_length=32)]
    help: Text
    title: Name
    scale: Literal["linear", "log"] = "linear"


class Column(msgspec.Struct, frozen=True, array_like=True):
    """One series of a Report: which quantity, under which labels, measured with which settings."""

    quantity: QuantityName
    labels: Labels = {}
    settings: Settings = {}


class Run(msgspec.Struct, frozen=True, array_like=True):
    """One training job from start to end."""

    id: Identifier
    name: Name
    host: Annotated[str, Meta(max_length=200)]
    pid: Count
    started_at: Moment
    labels: Labels = {}
    git_revision: Annotated[str, Meta(max_length=64)] = ""
    agent_version: Annotated[str, Meta(max_length=32)] = ""
    world_size: Annotated[int, Meta(ge=1, le=2**31)] = 1


class ProbeCost(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What one probe took at one step, how it came out and, when not ok, why.

    ``memory_raised`` is by how many bytes it raised the most memory its process ever had; ``apart`` says that this was not the training
    process, so that training did not wait for the ``seconds``.
    """

    probe: QuantityName
    seconds: float
    outcome: Annotated[int, Meta(ge=0, le=255)] = 0
    detail: Text = ""
    memory_raised: Count = 0
    apart: bool = False


class Losses(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What the agent gave up since it started: every loss is a number, never a silence."""

    reports_dropped: Count = 0
    snapshots_skipped: Count = 0
    scalars_dropped: Count = 0


class Hello(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """Opens a stream, and opens it again after each reconnection. Hearing it twice is harmless.

    ``first`` is the lowest sequence number the agent can still send: where it is beyond what the
    collector holds, the reports between are lost and are counted as lost. ``step`` is the step the
    training has reached. ``tightens`` says that the agent takes `Tighten`; one that does not say so is never sent one. ``time`` is
    now by the job's clock, Unix seconds, 0 where it is not said; ``waiting`` is how many messages the agent still has to deliver.
    ``ended`` says that this life of the process is over and somebody else delivers what it left.
    """

    run: Run
    rank: Annotated[int, Meta(ge=0, le=2**31)]
    epoch: Identifier
    first: Annotated[int, Meta(ge=1, le=MAX_REPORTS + 1)]
    step: Count = 0
    tightens: bool = False
    time: Moment = 0.0
    waiting: Count = 0
    ended: bool = False


class Schema(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """Names the columns of later Reports once. Sent after every Hello; not numbered."""

    id: Count
    quantities: Annotated[tuple[Quantity, ...], Meta(max_length=MAX_COLUMNS)]
    columns: Annotated[tuple[Column, ...], Meta(max_length=MAX_COLUMNS)]


class Report(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=3):
    """All measurements of one step of one rank, as columns against a Schema.

    ``values``, ``stderrs`` and ``paired`` are little-endian float64, ``ns`` uint32, ``outcomes``
    uint8, one entry a column. Agents round errors to twelve bits of mantissa. ``training_seconds`` and ``probe_seconds`` are totals since the agent
    was attached, so their ratio is the agent's share of the run.
    """

    seq: Number
    step: Count
    time: float
    schema: Count
    values: Annotated[bytes, Meta(max_length=8 * MAX_COLUMNS)]
    stderrs: Annotated[bytes, Meta(max_length=8 * MAX_COLUMNS)]
    paired: Annotated[bytes, Meta(max_length=8 * MAX_COLUMNS)]
    ns: Annotated[bytes, Meta(max_length=4 * MAX_COLUMNS)]
    outcomes: Annotated[bytes, Meta(max_length=MAX_COLUMNS)]
    costs: Annotated[tuple[ProbeCost, ...], Meta(max_length=256)] = ()
    training_seconds: float = 0.0
    probe_seconds: float = 0.0
    losses: Losses = Losses()


class Goodbye(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=4):
    """The stream is complete: nothing follows."""

    seq: Number
    step: Count
    time: float
    reason: Name
    losses: Losses = Losses()


class Ack(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=16):
    """Everything up to ``seq`` is committed; the agent may forget it."""

    seq: Count


class Nack(msgspec.Struct, frozen=True, array_like=True, tag=17):
    """The collector could not take a message. The agent greets again and goes back to ``seq`` + 1."""

    reason: Literal["unknown_stream", "unknown_schema", "gap", "bad_message", "version", "store", "forbidden"]
    seq: Count
    detail: Text = ""


class Advice(msgspec.Struct, frozen=True, array_like=True, tag=18):
    """What a transition means to the training loop, with its evidence in one sentence."""

    machine: QuantityName
    from_phase: QuantityName
    to_phase: QuantityName
    happened_step: Count
    known_step: Count
    confidence: float
    severity: Literal["info", "warning", "critical"]
    text: Text
    evidence: Text
    undo: Text = ""


class Tighten(msgspec.Struct, frozen=True, array_like=True, tag=19):
    """A wish: a transition is suspected in this quantity, so measure it more often for a while, if the budget allows.

    ``times`` as often as the schedule says, until ``until_step`` or for so many ``seconds``, whichever ends first. Heard
    twice, late or never it does no harm, so it is sent once.
    """

    quantity: QuantityName
    until_step: Count
    times: Annotated[int, Meta(ge=2, le=16)] = 4
    seconds: Annotated[float, Meta(gt=0, le=86_400)] = 3600.0
    reason: Text = ""


ToCollector = Hello | Schema | Report | Goodbye
ToAgent = Ack | Nack | Advice | Tighten
