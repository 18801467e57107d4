"""What all runtimes have in common once a model is theirs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

# From uint8 images [batch, height, width, 3] to outputs by their names.
Runner = Callable[[np.ndarray], dict[str, np.ndarray]]
