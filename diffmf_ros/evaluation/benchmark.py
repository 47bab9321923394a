# SPDX-License-Identifier: Apache-2.0
"""Milliseconds per stage of one fused pair, on this machine."""

import json
import os
import platform
import resource
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field, replace
from importlib.util import find_spec

import numpy as np

from ..core.encodings import decode
from ..core.frames import RGB, THERMAL, DiffmfError, Frame, Pair
from ..core.settings import Settings
from ..inference.pipeline import FusionPipeline
from ..inference.scaled import fuse_scaled

THERMAL_SHARE = 0.5  # of the sides of the RGB image
PROBE_TIMEOUT_S = 60
WARM_UP = 2


@dataclass(frozen=True)
class Benchmark:
    """Timings of one configuration. stages_ms: all samples by stage, in the order of the data flow."""

    settings: dict
    size: tuple[int, int]
    machine: str
    stages_ms: dict[str, list[float]] = field(repr=False)
    first_frame_s: float
    peak_memory_mb: float
    notes: tuple[str, ...]

    @property
    def name(self) -> str:
        """What was measured, such as 'diffmf light'."""
        model, preset = self.settings['model'], self.settings['preset']
        return model if model == 'classical' else f'{model} {preset}'

    def quantile(self, stage: str, q: float) -> float:
        """Quantile q of a stage in ms; 'total' adds the stages of each frame."""
        samples = np.sum(list(self.stages_ms.values()), axis=0) if stage == 'total' else self.stages_ms[stage]
        return float(np.quantile(samples, q))

    def as_json(self) -> str:
        """Everything, with the quantiles beside the samples."""
        quantiles = {stage: {f'p{q}_ms': self.quantile(stage, q / 100) for q in (50, 99)}
                     for stage in [*self.stages_ms, 'total']}
        return json.dumps({**asdict(self), 'quantiles': quantiles}, indent=1)


def measure(settings: Settings, *, size: tuple[int, int], frames: int, report=lambda done: None) -> Benchmark:
    """Fuse frames pairs of random images, rgb8 of size (width, height) and mono16 of half of it.

    A preset without trained weights is timed with fresh ones, in the network stage alone. Raises
    DiffmfError as the pipeline does.
    """
    notes = []
    start = time.perf_counter()
    pipeline, untrained, device = _pipeline(settings, notes)
    messages = _raw_images(size)
    samples: dict[str, list[float]] = {}
    for index in range(frames + WARM_UP):
        stages = _one_pair(pipeline, untrained, settings, messages)
        if index == 0:
            first_frame_s = time.perf_counter() - start
        if index >= WARM_UP:
            for stage, duration_ms in stages.items():
                samples.setdefault(stage, []).append(duration_ms)
            report(index - WARM_UP + 1)
    samples |= _publishing(size, frames, notes)
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return Benchmark({'model': settings.model, 'preset': settings.preset, 'scale': settings.scale,
                      'device': device, 'threads': settings.threads},
                     size, machine(), samples, first_frame_s, peak_mb, tuple(notes))


def machine() -> str:
    """Processor and number of cores that this process may use."""
    names = [line.split(':', 1)[1].strip() for line in open('/proc/cpuinfo') if line.startswith('model name')]
    return f'{names[0] if names else platform.machine()}, {len(os.sched_getaffinity(0))} cores'


def _pipeline(settings: Settings, notes: list[str]):
    """Return the pipeline, a function of the bare network where there are no weights for it, the device."""
    from ..inference.weights import WeightsError
    try:
        pipeline = FusionPipeline(settings)
        return pipeline, None, pipeline.device
    except WeightsError as error:
        if settings.weights:
            raise
        notes.append(f'{error}: timed with fresh weights, whose pictures mean nothing')
    return FusionPipeline(replace(settings, model='classical')), *_fresh_network(settings)


def _fresh_network(settings: Settings):
    """Return (ir, vi_y) -> fused of an untrained network, and its device."""
    import torch

    from .. import models
    from ..inference.engine import device_and_precision, prepare, run

    device, dtype = device_and_precision(settings)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    network = prepare(models.build(settings.model, settings.preset), device=device, scan_backend=settings.scan_backend)
    return lambda ir, y: run(network, ir, y, device=device, dtype=dtype), device


def _raw_images(size):
    """Return (rgb, thermal): the fields of two image messages."""
    random = np.random.default_rng(0)
    width, height = size
    thermal_width, thermal_height = (max(1, round(side * THERMAL_SHARE)) for side in size)
    rgb = random.integers(0, 256, height * width * 3, np.uint8)
    thermal = random.integers(7000, 9000, thermal_height * thermal_width, np.uint16)
    common = {'is_bigendian': False}
    return ({'width': width, 'height': height, 'encoding': 'rgb8', 'step': 3 * width, 'data': rgb.tobytes(), **common},
            {'width': thermal_width, 'height': thermal_height, 'encoding': 'mono16', 'step': 2 * thermal_width,
             'data': thermal.tobytes(), **common})


def _one_pair(pipeline, untrained, settings, messages) -> dict[str, float]:
    start = time.perf_counter()
    pixels = [decode(**message) for message in messages]
    pair = Pair(*(Frame(stream, 0, '', *decoded) for stream, decoded in zip((RGB, THERMAL), pixels)), offset_ns=0)
    decode_ms = 1e3 * (time.perf_counter() - start)
    result = pipeline.fuse(pair)
    if untrained is None and result.warnings:
        raise DiffmfError(f'this is not what was to be measured: {"; ".join(result.warnings)}')
    stages = {'decode': decode_ms, **result.timings_ms}
    if untrained is not None:
        stages['network'] = _time_network(untrained, settings, pair)
    return stages


def _time_network(untrained, settings, pair) -> float:
    height, width = pair.rgb.pixels.shape[:2]
    ir, y = np.random.default_rng(0).random((2, height, width), np.float32)
    start = time.perf_counter()
    fuse_scaled(untrained, ir, y, scale=settings.scale)
    return 1e3 * (time.perf_counter() - start)


def _publishing(size, frames, notes) -> dict[str, list[float]]:
    """Return the stages 'encode' and 'publish', measured in processes of their own."""
    if find_spec('rclpy') is None:
        notes.append('encode and publish are not measured: rclpy is not installed')
        return {}
    command = [sys.executable, '-m', 'diffmf_ros.ros.publish_probe', '--width', str(size[0]),
               '--height', str(size[1]), '--frames', str(frames)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PROBE_TIMEOUT_S + frames)
    if done.returncode:
        raise DiffmfError(f'publishing could not be measured:\n{done.stderr.strip()}')
    return json.loads(done.stdout.splitlines()[-1])
