# SPDX-License-Identifier: Apache-2.0
"""A pipeline whose network takes a fixed time: what is left is the cost of everything else."""

import time
from typing import cast

import numpy as np

from ....core.settings import Settings
from ....inference.fault_tolerance import DirectRunner, FaultTolerantRunner
from ....inference.network import LoadedNetwork, Network
from ....inference.pipeline import FusionPipeline
from ....inference.prepare import CpuBackend


class StubNetwork:
    """In place of inference.network.Network: returns luminance after compute_ms.

    The thread sleeps meanwhile, as one does that waits for a GPU; 0 returns at once.
    """

    name = 'a network of fixed time'
    device = 'none'
    problems: tuple[str, ...] = ()

    def __init__(self, compute_ms: float):
        self._compute_s = compute_ms / 1e3
        self.backend = CpuBackend(self._fuse)

    def renew(self) -> None:
        """Nothing is kept."""

    def _fuse(self, ir: np.ndarray, y: np.ndarray) -> np.ndarray:
        time.sleep(self._compute_s)
        return y


def timed_pipeline(settings: Settings, *, watchdog: bool = False,
                   compute_ms: float) -> FusionPipeline:
    """Return a FusionPipeline with a StubNetwork. settings must name the classical model.

    None is loaded.
    """
    pipeline = FusionPipeline(settings, watchdog=watchdog)
    network = StubNetwork(compute_ms)
    runner_of = FaultTolerantRunner if watchdog else DirectRunner
    pipeline.swap(LoadedNetwork(runner_of(cast(Network, network)), network.name, network.device))
    return pipeline
