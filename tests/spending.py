"""Whether a budget was kept, as the drafts of a job tell."""

from collections.abc import Sequence
from itertools import pairwise

from probe_agent.draft import Draft


def is_kept(share: float, drafts: Sequence[Draft], *, after: int = -1) -> bool:
    """No draft after that step is beyond the share by more than the dearest measurement, which nobody could know before."""
    spent = [0.0, *(draft.probe_seconds for draft in drafts)]
    dearest = max(now - before for before, now in pairwise(spent))
    recorded = 0.05  # seconds charged between two measurements, such as for keeping the weights before a step
    return all(
        draft.probe_seconds < share * draft.training_seconds + dearest + recorded
        for draft in drafts
        if draft.step > after
    )
