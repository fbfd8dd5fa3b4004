"""Repetition: whether what is evaluated is a function of the weights alone, and not of what is drawn or remembered too.

A difference of two losses, or of two gradients, at different weights tells of the weights only where the same would be found
again at the same weights. Of what draws from the global random streams each evaluation of the probe set draws the
same (`probe_agent.undisturbed.draw_again`). What has a generator of its own, or counts its own calls, is found out here.
"""

import torch
from torch import Tensor

from probe_agent.errors import NotApplicable
from probe_agent.estimators.perturbation import loss_here
from probe_agent.snapshot import Snapshot

_DIGITS = 0.75
"""Of the digits of a type so large a part must be the same again: a device may add up in another order each time."""


def check_loss_repeats(snapshot: Snapshot) -> None:
    """Evaluate the loss once more where it was evaluated; once a snapshot.

    Raises:
        NotApplicable: it is another one.
    """

    def evaluated() -> float:
        with torch.no_grad():
            # As the loss at other weights will be: by weights that are handed to the model.
            return float(snapshot.loss({name: p.detach() for name, p in snapshot.params.items()}))

    once, again = loss_here(snapshot).value, snapshot.once("loss again", evaluated)
    if not repeats(*(torch.tensor(loss, dtype=torch.float32) for loss in (once, again))):
        raise NotApplicable(
            f"Got a loss of {once:.6g} and then, at the same weights and samples, one of {again:.6g}: {REFUSED}"
        )


REFUSED = (
    "in evaluation mode the model or the loss draws from a random generator of its own, or remembers earlier calls, and a difference would "
    "be one of luck. Need the same each time: draw from the global generators (torch.manual_seed), which are put back before each "
    "evaluation, or only where self.training."
)
"""What is the matter with a model or a loss that does not repeat, and what to do."""


def repeats(once: Tensor, again: Tensor) -> bool:
    """Whether they are the same, but for rounding; what is not finite must be so in the same places."""
    finite = once.isfinite()
    if not finite.equal(again.isfinite()):
        return False
    one, other = once[finite].double(), again[finite].double()
    apart, size = (float(torch.linalg.vector_norm(each)) for each in (one - other, one))
    return bool(apart <= torch.finfo(once.dtype).eps ** _DIGITS * size)
