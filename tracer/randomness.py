"""One seed for all that draws at random while a step runs, so that a trace repeats and a real run draws what it drew.

*Randomness* is that of Python's ``random``, of NumPy's global generator and of PyTorch's: a model may ask any of them
which of its layers to skip.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def seeded() -> Iterator[None]:
    """Every generator begins at 0 and is left where it was."""
    python, numpy, torch_state = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(torch_state)
