# SPDX-License-Identifier: Apache-2.0
"""Milliseconds per stage of fused pairs on this machine, several configurations in turn; time and
memory from the start of a process to its first fused frame.

The start has a process of its own for each configuration: memory that one has used stays with its
process, and imports are paid once.
"""

import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace

import numpy as np

from ...core.frames import RGB, THERMAL, DiffmfError, Frame, Pair
from ...core.imaging.encodings import decode_message
from ...core.settings import DEFAULTS, Settings, iter_specs, with_changes
from ...inference.network import name_of
from ...inference.pipeline import FusionPipeline
from ..machine import find_meter, peak_memory_mb

THERMAL_SHARE = 0.5  # of the sides of the RGB image
WARM_UP = 2
START_TIMEOUT_S = 600
START_PAIRS = 2  # of measure_startup: the second one may need memory that the first did not


@dataclass(frozen=True)
class Configuration:
    """What is timed: settings, the size (width, height) of the RGB image, and whether the weights
    are trained."""

    settings: Settings
    size: tuple[int, int]
    trained: bool = True

    @property
    def network(self) -> str:
        """Such as 'diffmf light', or 'classical'."""
        settings = self.settings
        return settings.model if settings.model == 'classical' else name_of(settings)

    @property
    def name(self) -> str:
        """Such as 'diffmf light 640x480' or 's4fusion base 640x480 x0.5'."""
        scale = '' if self.settings.scale == 1 else f' x{self.settings.scale:g}'
        return f'{self.network} {self.size[0]}x{self.size[1]}{scale}'


@dataclass(frozen=True)
class Benchmark:
    """Timings of one configuration.

    runs_on: device, precision and scan backend; stages_ms: all samples by stage, in the order of
    the data flow; busy_cores: CPU time over wall time; joules: per frame, or why they are not
    known.
    """

    configuration: Configuration
    runs_on: str
    stages_ms: dict[str, list[float]] = field(repr=False)
    busy_cores: float
    joules: float | str
    input_sha256: str
    problems: tuple[str, ...] = ()

    def totals_ms(self) -> np.ndarray:
        """Return the sum of all stages of each frame."""
        return np.sum(list(self.stages_ms.values()), axis=0)

    def quantile(self, stage: str, q: float) -> float:
        """Quantile q of a stage in ms; 'total' adds the stages of each frame."""
        return float(np.quantile(self.totals_ms() if stage == 'total' else self.stages_ms[stage],
                                 q))


def measure(settings: Settings, *, size: tuple[int, int], frames: int) -> Benchmark:
    """Time one configuration; see compare."""
    with with_weights([Configuration(settings, size)]) as configurations:
        return compare(configurations, frames=frames)[0]


def compare(configurations: Sequence[Configuration], *, frames: int,
            report: Callable[[int], None] = lambda done: None) -> list[Benchmark]:
    """Fuse frames pairs with each configuration, in turn (A, B, A, B ...), so that a slow minute
    slows all.

    The pairs are random images: rgb8, and mono16 of half its sides. report is called with the
    number of pairs that every configuration has fused. Raises DiffmfError as the pipeline does,
    and when a result carries warnings: then something else than the configuration was timed.
    """
    subjects = [_Subject(configuration) for configuration in configurations]
    for index in range(frames + WARM_UP):
        for subject in subjects:
            subject.fuse(keep=index >= WARM_UP)
        report(max(0, index + 1 - WARM_UP))
    return [subject.result() for subject in subjects]


@contextmanager
def with_weights(configurations: Sequence[Configuration]) -> Iterator[list[Configuration]]:
    """Yield configurations that all have weights.

    Presets without trained ones get fresh ones in a file.
    """
    with TemporaryDirectory() as folder:
        yield [_with_weights(configuration, Path(folder)) for configuration in configurations]


def _with_weights(configuration: Configuration, folder: Path) -> Configuration:
    settings = configuration.settings
    if settings.model == 'classical' or settings.engine != 'torch' or settings.weights:
        return configuration
    from ... import models
    from ...inference.weights import save_weights
    from ...inference.weights_header import WeightsError, shipped
    try:
        shipped(settings.model, settings.network_preset)
        return configuration
    except WeightsError:
        path = folder / f'{settings.model}_{settings.network_preset}.safetensors'
        if not path.exists():
            tensors = models.build(settings.model, settings.network_preset).state_dict()
            # One iteration, though there was none: a file without any is refused.
            save_weights(path, tensors, model=settings.model, preset=settings.network_preset,
                         iterations=1, seed=0)
        return replace(configuration, settings=replace(settings, weights=str(path)), trained=False)


class _Subject:
    """A configuration, ready to fuse, and what was measured so far."""

    def __init__(self, configuration: Configuration):
        self._configuration = configuration
        self._pipeline = FusionPipeline(configuration.settings)
        self._messages = raw_images(configuration.size)
        self._stages_ms: dict[str, list[float]] = {}
        self._meter = find_meter()
        self._cpu_s = self._wall_s = self._joules = 0.0
        self._frames = 0

    def fuse(self, *, keep: bool) -> None:
        """Fuse one pair; keep its timings unless it warms up."""
        joules = self._joules_so_far()
        cpu_s, wall_s = time.process_time(), time.perf_counter()
        stages_ms = fuse_messages(self._pipeline, self._messages)
        if not keep:
            return
        self._cpu_s += time.process_time() - cpu_s
        self._wall_s += time.perf_counter() - wall_s
        self._joules += self._joules_so_far() - joules
        self._frames += 1
        for stage, duration_ms in stages_ms.items():
            self._stages_ms.setdefault(stage, []).append(duration_ms)

    def _joules_so_far(self) -> float:
        return 0.0 if isinstance(self._meter, str) else self._meter.joules()

    def result(self) -> Benchmark:
        """Return what was measured."""
        sha = hashlib.sha256(b''.join(message['data'] for message in self._messages)).hexdigest()
        joules = self._meter if isinstance(self._meter, str) else self._joules / self._frames
        return Benchmark(self._configuration, self._pipeline.device, self._stages_ms,
                         self._cpu_s / self._wall_s, joules, sha,
                         tuple(issue.text for issue in self._pipeline.issues))


def raw_images(size: tuple[int, int]) -> tuple[dict, dict]:
    """Return (rgb, thermal): the fields of two image messages with random pixels."""
    random = np.random.default_rng(0)
    width, height = size
    thermal_width, thermal_height = (max(1, round(side * THERMAL_SHARE)) for side in size)
    rgb = random.integers(0, 256, height * width * 3, np.uint8)
    thermal = random.integers(7000, 9000, thermal_height * thermal_width, np.uint16)
    common = {'is_bigendian': False}
    return ({'width': width, 'height': height, 'encoding': 'rgb8', 'step': 3 * width,
             'data': rgb.tobytes(), **common},
            {'width': thermal_width, 'height': thermal_height, 'encoding': 'mono16',
             'step': 2 * thermal_width, 'data': thermal.tobytes(), **common})


def fuse_messages(pipeline: FusionPipeline, messages: tuple[dict, dict]) -> dict[str, float]:
    """Decode and fuse two image messages; return milliseconds by stage.

    Raises DiffmfError on a warning.
    """
    start = time.perf_counter()
    rgb, thermal = (decode_message(SimpleNamespace(**message)) for message in messages)
    pair = Pair(Frame(RGB, 0, '', *rgb), Frame(THERMAL, 0, '', *thermal), offset_ns=0)
    decode_ms = 1e3 * (time.perf_counter() - start)
    result = pipeline.fuse(pair)
    if result.warnings:
        raise DiffmfError(f'this is not what was to be measured: {"; ".join(result.warnings)}')
    return {'decode': decode_ms, **result.timings_ms}


@dataclass(frozen=True)
class Startup:
    """first_frame_s: from the start of the process, imports included; memory: the peaks in MB."""

    first_frame_s: float
    peak_memory_mb: float
    device_memory_mb: float | None


def measure_startup(configuration: Configuration) -> Startup:
    """Start a process that fuses with configuration.

    Raises DiffmfError, with what it said, when it fails.
    """
    job = {'settings': {item.name: item.value for item in iter_specs(configuration.settings)},
           'size': configuration.size, 'started_s': time.monotonic()}
    done = subprocess.run([sys.executable, '-m', __name__, json.dumps(job)], capture_output=True,
                          text=True, timeout=START_TIMEOUT_S, check=False)
    if done.returncode:
        reason = done.stderr.strip().rpartition('\n')[2]  # of a traceback the error
        raise DiffmfError(f'the start of {configuration.name} could not be measured: {reason}')
    return Startup(**json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    """Fuse as the process that measure_startup starts, and print the measurements."""
    job = json.loads(sys.argv[1])
    pipeline = FusionPipeline(with_changes(DEFAULTS, job['settings']))
    messages = raw_images(job['size'])
    fuse_messages(pipeline, messages)
    first_frame_s = time.monotonic() - job['started_s']  # this clock is the same in every process
    for _ in range(START_PAIRS - 1):
        fuse_messages(pipeline, messages)
    device_mb = None
    if pipeline.device.startswith('cuda'):
        import torch
        device_mb = torch.cuda.max_memory_reserved() / 2 ** 20
    print(json.dumps({'first_frame_s': first_frame_s, 'peak_memory_mb': peak_memory_mb(),
                      'device_memory_mb': device_mb}))


if __name__ == '__main__':
    main()
