"""Stability: how an optimizer's step scales the curvature it meets, and where it stops being stable.

On a quadratic with Hessian H, gradient descent with a positive diagonal D of step sizes, w ← w − D∇L,
is stable where λ_max(D^½ H D^½) < 2: the symmetric matrix has the eigenvalues of DH. D is the learning
rate of each parameter, divided by the preconditioner where there is one. With momentum β the bound of
each eigenvalue is another multiple of 2 (Cohen et al. 2021, "Gradient descent on neural networks
typically occurs at the edge of stability", appendix B; for Adam 2022, "Adaptive gradient methods at
the edge of stability", section 2):

=========  =====================================  ==================
gradient   w ← w − D g                            2
momentum   v ← βv + g,  w ← w − D v               2 (1 + β)
Nesterov   v ← βv + g,  w ← w − D (g + βv)        2 (1 + β)/(1 + 2β)
Adam       m ← βm + (1 − β) g,  w ← w − D m       2 (1 + β)/(1 − β)
=========  =====================================  ==================
"""

import torch
from torch import Tensor

from probe_agent.errors import NotApplicable
from probe_agent.snapshot import Snapshot
from probe_agent.update_rule import UpdateRule


def known_rule(snapshot: Snapshot) -> UpdateRule:
    """The optimizer's rule, where it has an edge of stability.

    Raises:
        NotApplicable: no rule is known, or there is no theory for it, or it has not taken its first step.
    """
    rule = snapshot.rule
    if rule is None:
        raise NotApplicable("Got no optimizer; need the one that trains the model: attach(model, optimizer, …).")
    if rule.kind == "unknown":
        raise NotApplicable(
            f"Got optimizer {rule.optimizer}; the edge of stability is known for SGD without dampening and for Adam, AdamW, "
            "RMSprop and Adagrad without momentum of their own, where they minimize. Watch hessian_lambda_max instead."
        )
    if rule.kind == "adam" and not rule.preconditioner:
        raise NotApplicable(f"Got {rule.optimizer} before its first step; its preconditioner does not exist yet.")
    if not rule.learning_rates.keys() & snapshot.params.keys():
        raise NotApplicable(
            f"Got {rule.optimizer} that moves none of the trainable parameters; nothing can be unstable."
        )
    return rule


def bound(rule: UpdateRule) -> float:
    """The largest stable eigenvalue of D^½ H D^½."""
    beta = rule.momentum
    match rule.kind:
        case "momentum":
            return 2 * (1 + beta)
        case "nesterov":
            return 2 * (1 + beta) / (1 + 2 * beta)
        case "adam":
            return 2 * (1 + beta) / (1 - beta)
    return 2.0


def step_sizes(snapshot: Snapshot, rule: UpdateRule) -> float | Tensor:
    """D: one number where every parameter has it, else one a coordinate, shape ``(P,)``; zero where the optimizer does nothing."""
    rates = [rule.learning_rates.get(name, 0.0) for name in snapshot.params]
    if rule.preconditioner is None and len(set(rates)) == 1:
        return rates[0]
    sizes = []
    for rate, (name, p) in zip(rates, snapshot.params.items(), strict=True):
        size = torch.full_like(p.detach(), rate, dtype=torch.promote_types(p.dtype, torch.float32))
        if rule.preconditioner is not None:
            known = rule.preconditioner.get(name)
            size = torch.zeros_like(size) if known is None else size / known
        sizes.append(size.reshape(-1))
    return torch.cat(sizes)
