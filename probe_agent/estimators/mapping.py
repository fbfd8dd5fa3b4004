"""What ``torch.func.vmap`` over a model needs around it."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from torch.nn.attention import SDPBackend, sdpa_kernel


@contextmanager
def mappable() -> Iterator[None]:
    """Attention written out, since fused attention has no batching rule; where vmap must loop, that is no news to a user."""
    with sdpa_kernel(SDPBackend.MATH), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "There is a performance drop")
        yield
