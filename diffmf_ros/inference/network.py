# SPDX-License-Identifier: Apache-2.0
"""A network made ready: the engine and backend that settings name, loaded, checked, warmed up."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..core.frames import RGB, THERMAL, DiffmfError, Frame, Pair
from ..core.imaging.thermal import Levels
from ..core.packages import pip_install
from ..core.settings import SYNTHETIC, Settings
from . import EngineError
from .fault_tolerance import FIRST_CALL_S, DirectRunner, FaultTolerantRunner
from .memory import give_back_memory
from .onnx_engine import read_sealed
from .prepare import CpuBackend, PreparedPair
from .working_size import steps_from

# A usual size of thermal cameras: until one was seen, the network is prepared for that.
_THERMAL_SIZE = (640, 512)
# The first pair of a size prepares, the second tells how long one takes.
_PAIRS = 2
Runner = DirectRunner | FaultTolerantRunner


class Network:
    """The network that settings name, with the backend of its device. For one thread at a time.

    backend: a torch network on a GPU has a CudaBackend, others a CpuBackend. Raises DiffmfError at
    construction when weights, device, precision or scan backend are not usable, and when a library
    is missing.
    """

    def __init__(self, settings: Settings):
        self.settings = settings
        self._engine = make_engine(settings)
        self.renew()

    @property
    def name(self) -> str:
        """Such as 'diffmf light'."""
        return name_of(self.settings)

    @property
    def device(self) -> str:
        """Device, precision and scan backend."""
        return self._engine.description

    @property
    def problems(self) -> tuple[str, ...]:
        """What does not work and is done without."""
        return *self._engine.problems, *self.backend.problems

    def renew(self) -> None:
        """Give up all that is kept from pair to pair: buffers, and on a device plans and graphs.
        """
        # onnxruntime takes host arrays
        if self.settings.engine == 'torch' and self._engine.device == 'cuda':
            from .cuda_backend import CudaBackend
            self.backend: Any = CudaBackend(self._engine)
        else:
            self.backend = CpuBackend(self._engine)


def name_of(settings: Settings) -> str:
    """Return model and preset, such as 'diffmf nano', and which weights if not the usual ones."""
    kind = f' {SYNTHETIC}' if settings.weights == SYNTHETIC else ''
    return f'{settings.model} {settings.network_preset}{kind}'


class LibraryMissing(EngineError):
    """A network needs a library that is not installed: torch, einops or safetensors.

    needs: which network needs what.
    """

    def __init__(self, needs: str, error: ImportError):
        """needs: what needs it; error: its import."""
        self.needs = f'{needs} needs {(error.name or "torch").partition(".")[0]}'
        cure = pip_install('torch') if isinstance(error, ModuleNotFoundError) else (
            'it is installed, but cannot be loaded: is there enough memory (ulimit -v, the limit '
            'of a container), and do its versions fit each other?')
        super().__init__(f'{self.needs}, which cannot be imported ({error}); {cure}')


def make_engine(settings: Settings):
    """Return the engine that settings name.

    Raises LibraryMissing without torch, and what the engine raises.
    """
    if settings.engine == 'onnx':
        from .onnx_engine import OnnxEngine
        return OnnxEngine(settings)
    try:
        from .engine import Engine
        return Engine(settings)  # imports the model, and with it einops
    except ImportError as error:
        raise LibraryMissing(name_of(settings), error) from error


@dataclass(frozen=True)
class LoadedNetwork:
    """What fuses: a network in a runner, or None for classical fusion."""

    runner: Runner | None
    description: str
    device: str = 'cpu'

    def close(self) -> None:
        """Let go of the network; one that hangs is left to itself."""
        if self.runner is not None:
            self.runner.close()


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


def load(settings: Settings, *, runner_of: Callable[[Network], Runner],
         example: PreparedPair | None = None) -> LoadedNetwork:
    """Return the network that settings name, checked, and warmed up on a pair if there is one.

    Raises DiffmfError when it is not to be had here, does not load, or fails on that pair.
    """
    if settings.model == 'classical':
        return LoadedNetwork(None, 'classical')
    try:
        network = Network(settings)
    except DiffmfError:
        raise
    except Exception as error:  # drivers and allocators raise anything
        problem = EngineError(f'{name_of(settings)} cannot be loaded: {type(error).__name__}: '
                              f'{error}')
    else:
        runner = runner_of(network)
        loaded = LoadedNetwork(runner, network.name, network.device)
        failure = warm_up(runner, example, settings) if example is not None else ''
        if not failure:
            return loaded
        loaded.close()
        problem = EngineError(f'{network.name} was loaded, but {failure}')
    give_back_memory()
    raise problem


def warm_up(runner: Runner, prepared: PreparedPair, settings: Settings) -> str:
    """Fuse a pair at every working size of settings; return why that failed, or nothing."""
    for scale in steps_from(settings.scale) if settings.adaptive_scale else (settings.scale,):
        for _ in range(_PAIRS):
            run = runner.fuse(prepared, scale=min(scale, runner.trusted.largest),
                              timeout_s=FIRST_CALL_S)
            if run.image is None:
                return '; '.join(run.warnings)
    return ''


def blank_pair(rgb_size: tuple[int, int], *, mapping: Callable,
               settings: Settings) -> PreparedPair:
    """Return a black pair with an RGB image of this (width, height); mapping is that of an
    Aligner."""
    (width, height), (thermal_width, thermal_height) = rgb_size, _THERMAL_SIZE
    rgb = Frame(RGB, 0, '', np.zeros((height, width, 3), np.uint8), 'rgb8')
    thermal = Frame(THERMAL, 0, '', np.zeros((thermal_height, thermal_width), np.uint16), 'mono16')
    return PreparedPair(Pair(rgb, thermal, 0), Levels(0.0, 1.0),
                        mapping(rgb_size=rgb_size, thermal_size=_THERMAL_SIZE), settings)
