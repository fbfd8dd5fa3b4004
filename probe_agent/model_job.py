"""A training job for a model that has no script yet: as many steps as an `Examination` needs, on its probe batch.

    python -m probe_agent.model_job PACKAGE.MODULE:NAME

The name is a function that gives what `attach` takes, as a dict (``model``, ``probe_batch``, ``loss_fn`` …; ``optimizer`` is AdamW
where there is none), or as the tuple ``(model, loss_fn, probe_batch)``.
"""

import sys
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from probe_agent.attach import attach
from probe_agent.examination import AFTER_STEPS
from probe_agent.snapshot import Snapshot

TARGET = r"[\w.]+:\w+"
"""What such a name looks like."""


def settings_of(target: str) -> dict[str, Any]:
    """What `attach` takes, made by the function of that name.

    Raises:
        SystemExit: there is no such function, or what it gives cannot be attached to.
    """
    module, _, name = target.partition(":")
    sys.path.insert(0, str(Path.cwd()))
    try:
        make = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        sys.exit(f"Got {target!r}; need PACKAGE.MODULE:NAME of a function that can be imported from here ({error}).")
    found = make()
    if isinstance(found, tuple) and len(found) == 3:
        found = dict(zip(("model", "loss_fn", "probe_batch"), found, strict=True))
    if not isinstance(found, Mapping) or not {"model", "probe_batch"} <= found.keys():
        sys.exit(
            f"Got a {type(found).__name__} from {target}(); need a dict of what attach() takes, with model and probe_batch, or the "
            "tuple (model, loss_fn, probe_batch)."
        )
    return dict(found)


def main(target: str) -> None:
    """Attach, and train on the probe batch for a few steps."""
    settings = settings_of(target)
    model = settings["model"]
    optimizer = settings.setdefault("optimizer", torch.optim.AdamW(model.parameters(), lr=1e-3))
    monitor = attach(**{"run": target, **settings})
    subject = monitor.subject
    job = Snapshot(0, model, {}, subject.probe_set, subject.loss_fn, None, 0, logits=subject.logits)
    model.train()
    for _ in range(AFTER_STEPS):
        optimizer.zero_grad()
        job.loss().backward()
        optimizer.step()


if __name__ == "__main__":
    main(sys.argv[1])
