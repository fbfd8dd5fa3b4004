"""UpdateRule: how the optimizer turns gradients into steps, as it stands at one step."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

Kind = Literal["gradient", "momentum", "nesterov", "adam", "unknown"]


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateRule:
    """What probes may know of the optimizer. Tensors are clones, by the parameter names of the snapshot.

    Attributes:
        optimizer: the class's name, such as "AdamW".
        kind: the family whose stability theory applies; "unknown" where none is known to.
        learning_rates: η of each parameter the optimizer moves.
        momentum: β of heavy-ball and Nesterov momentum, β1 of Adam; 0 where there is none.
        preconditioner: for "adam", the positive diagonal √v̂ + ε the step is divided by; None elsewhere,
            and before the first step.
        updates: w_t − w_{t−1}, then w_{t−1} − w_{t−2}: the last steps as the optimizer took them, as
            many as were seen (none at attach).
    """

    optimizer: str
    kind: Kind
    learning_rates: Mapping[str, float]
    momentum: float = 0.0
    preconditioner: Mapping[str, Tensor] | None = None
    updates: tuple[Mapping[str, Tensor], ...] = field(default=())
