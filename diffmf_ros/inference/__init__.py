# SPDX-License-Identifier: Apache-2.0
"""From a network to a dependable function.

Weights, device and precision, and Pair -> FusionResult. What the engines raise stands here, free
of torch, so that a board without it can run an exported network.
"""

from ..core.frames import DiffmfError


class EngineError(DiffmfError):
    """A device, precision, backend or network file that cannot be used as asked."""


class NetworkFailure(RuntimeError):
    """The network failed on one pair: it raised, or its output is not finite."""
