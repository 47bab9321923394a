# SPDX-License-Identifier: Apache-2.0
"""A network made ready beside the one in use."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..core.frames import RGB, THERMAL, DiffmfError, Frame, Pair
from ..core.imaging.thermal import Levels
from ..core.settings import Settings
from ..core.sync.adaptive_scale import steps_from
from .errors import EngineError
from .fault_tolerance import FIRST_CALL_S, Live, Offline
from .memory import give_back_memory
from .network import LibraryMissing, Network, PreparedPair, name_of
from .onnx_engine import read_sealed

# A usual size of thermal cameras: until one was seen, the network is prepared for that.
_THERMAL_SIZE = (640, 512)
# The first pair of a size prepares, the second tells how long one takes.
_PAIRS = 2


@dataclass(frozen=True)
class Loaded:
    """What fuses: a guarded network, or None for classical fusion."""

    guard: Live | Offline | None
    description: str
    device: str = 'cpu'

    def close(self) -> None:
        """Let go of the network; one that hangs is left to itself."""
        if self.guard is not None:
            self.guard.close()


def require_network(settings: Settings) -> None:
    """Raise DiffmfError when a look at its file shows that the network of settings cannot be
    loaded. Quick."""
    if settings.model == 'classical':
        return
    if settings.engine == 'onnx':
        read_sealed(Path(settings.weights))
    else:
        from .weights_header import weights_for
        try:
            weights_for(settings)
        except ImportError as error:  # safetensors, which a board with onnxruntime may lack
            raise LibraryMissing(name_of(settings), error) from error


def load(settings: Settings, *, guard_of: Callable[[Network], Live | Offline],
         example: PreparedPair | None = None) -> Loaded:
    """Return the network that settings name, checked, and warmed up on a pair if there is one.

    Raises DiffmfError when it is not to be had here, does not load, or fails on that pair.
    """
    if settings.model == 'classical':
        return Loaded(None, 'classical')
    try:
        network = Network(settings)
    except DiffmfError:
        raise
    except Exception as error:  # drivers and allocators raise anything
        problem = EngineError(f'{name_of(settings)} cannot be loaded: {type(error).__name__}: '
                              f'{error}')
    else:
        guard = guard_of(network)
        loaded = Loaded(guard, network.name, network.device)
        failure = warm_up(guard, example, settings) if example is not None else ''
        if not failure:
            return loaded
        loaded.close()
        problem = EngineError(f'{network.name} was loaded, but {failure}')
    give_back_memory()
    raise problem


def warm_up(guard: Live | Offline, job: PreparedPair, settings: Settings) -> str:
    """Fuse job at every working size that settings may use; return why that failed, or nothing."""
    for scale in steps_from(settings.scale) if settings.adaptive_scale else (settings.scale,):
        for _ in range(_PAIRS):
            attempt = guard.fuse(job, scale=scale, timeout_s=FIRST_CALL_S)
            if attempt.image is None:
                return '; '.join(attempt.warnings)
    return ''


def blank_job(rgb_size: tuple[int, int], *, mapping: Callable, color: str) -> PreparedPair:
    """Return a black pair with an RGB image of this (width, height); mapping is that of an
    Aligner."""
    (width, height), (thermal_width, thermal_height) = rgb_size, _THERMAL_SIZE
    rgb = Frame(RGB, 0, '', np.zeros((height, width, 3), np.uint8), 'rgb8')
    thermal = Frame(THERMAL, 0, '', np.zeros((thermal_height, thermal_width), np.uint16), 'mono16')
    return PreparedPair(Pair(rgb, thermal, 0), Levels(0.0, 1.0),
               mapping(rgb_size=rgb_size, thermal_size=_THERMAL_SIZE), color)
