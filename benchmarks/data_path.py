# SPDX-License-Identifier: Apache-2.0
"""The data path without the network, message bytes to message bytes.

Ours against a naive one, in turn in one process.

Printed per case: wall and CPU time of both (on a shared machine read the CPU time, with one
thread), the ratio, and per frame of ours the page faults and the largest amount of memory that was
live beyond what the frame before it left.
"""

import argparse
import json
import resource
import statistics
import time
import tracemalloc
from array import array
from types import SimpleNamespace

import cv2
import numpy as np

from diffmf_ros.core.alignment.geometry import Alignment, Mapping
from diffmf_ros.core.frames import RGB, THERMAL, Frame, Pair
from diffmf_ros.core.imaging.encodings import decode_message
from diffmf_ros.core.imaging.thermal import GainControl
from diffmf_ros.core.settings import DEFAULTS, ThermalSettings
from diffmf_ros.inference.memory import keep_freed_memory
from diffmf_ros.inference.prepare import CpuBackend, PreparedPair

ROUNDS, WARM_UP = 200, 10
# From 320x256 thermal to 640x480 RGB: turned by 2 degrees, with a little perspective, a border
# unseen.
HOMOGRAPHY = ((1.8, -0.063, 34.0), (0.063, 1.79, 12.0), (1e-5, -2e-5, 1.0))
ALIGNMENT = Alignment(HOMOGRAPHY, rgb_size=(640, 480), thermal_size=(320, 256))
# name: RGB size, thermal size, alignment, bar of p50 in ms
CASES = {
    '640x480 rgb8, 320x256 mono16, homography': ((640, 480), (320, 256), ALIGNMENT, 3.0),
    '640x480 rgb8, 640x480 mono16, resize': ((640, 480), (640, 480), Alignment.resize(), 3.0),
    '1280x1024 rgb8, 640x512 mono16, homography': ((1280, 1024), (640, 512), ALIGNMENT, 12.0),
}


def messages(rgb_size, thermal_size) -> tuple[dict, dict]:
    """Return the fields of an rgb8 and a mono16 message with a smooth scene and noise."""
    random = np.random.default_rng(0)

    def scene(width, height, *channels):
        waves = np.sin(np.linspace(0, 9, width)) + np.cos(np.linspace(0, 7, height))[:, None]
        return waves.reshape(height, width, *(1 for _ in channels)) + random.normal(
            0, 0.1, (height, width, *channels))

    rgb = (128 + 50 * scene(*rgb_size, 3)).clip(0, 255).astype(np.uint8)
    heat = (7600 + 200 * scene(*thermal_size)).astype(np.uint16)
    return tuple({'width': image.shape[1], 'height': image.shape[0], 'encoding': encoding,
                  'step': image.strides[0], 'is_bigendian': False,
                  'data': array('B', image.tobytes())}
                 for image, encoding in ((rgb, 'rgb8'), (heat, 'mono16')))


def outgoing(pixels: np.ndarray) -> array:
    """The data field of a message."""
    data = array('B')
    data.frombytes(pixels)
    return data


def ours(path: CpuBackend, mapping: Mapping, gain: GainControl, rgb: dict, heat: dict) -> array:
    """One frame through the package."""
    pair = Pair(*(Frame(stream, 0, '', *decode_message(SimpleNamespace(**message))) for stream,
                  message in ((RGB, rgb), (THERMAL, heat))), 0)
    prepared = PreparedPair(pair, gain.levels(pair.thermal), mapping, DEFAULTS)
    pixels, _ = path.fuse(prepared, scale=1.0)()
    return outgoing(pixels)


def naive(alignment: Alignment, rgb: dict, heat: dict) -> array:
    """The same by the obvious arithmetic on float32 images."""
    pixels = np.frombuffer(rgb['data'], np.uint8).reshape(rgb['height'], rgb['width'],
                                                          3).astype(np.float32)
    counts = np.frombuffer(heat['data'], np.uint16).reshape(heat['height'],
                                                            heat['width']).astype(np.float32)
    low, high = np.percentile(counts, (0.5, 99.5))
    gray = np.clip((counts - low) / (high - low), 0, 1)
    size = rgb['width'], rgb['height']
    if alignment.rgb_from_thermal is None:
        ir, seen = cv2.resize(gray, size), np.ones(size[::-1], np.float32)
    else:
        measured = cv2.resize(gray, alignment.thermal_size)
        matrix = np.diag((size[0] / alignment.rgb_size[0], size[1] / alignment.rgb_size[1], 1.0))
        matrix = matrix @ np.array(alignment.rgb_from_thermal)
        ir = cv2.warpPerspective(measured, matrix, size)
        seen = cv2.warpPerspective(np.ones_like(measured), matrix, size)
    r, g, b = pixels[..., 0], pixels[..., 1], pixels[..., 2]
    y = 0.299 * r + 0.587 * g + 0.114 * b
    cr, cb = 0.713 * (r - y), 0.564 * (b - y)
    fused = pass_through(np.where(seen > 0.5, ir, y / 255), y / 255)
    luma = np.where(seen > 0.5, fused * 255, y)
    image = np.stack((luma + 1.403 * cr, luma - 0.714 * cr - 0.344 * cb, luma + 1.773 * cb),
                     axis=-1)
    return outgoing(np.rint(image.clip(0, 255)).astype(np.uint8))


def pass_through(ir: np.ndarray, y: np.ndarray) -> np.ndarray:
    """In place of the network: no work."""
    return y


def timed(function, *arguments) -> tuple[float, float]:
    """Milliseconds of one call: of wall time and of this process's CPU time, which other processes
    do not touch."""
    wall, cpu = time.perf_counter(), time.process_time()
    function(*arguments)
    return 1e3 * (time.perf_counter() - wall), 1e3 * (time.process_time() - cpu)


def memory_of(function, *arguments) -> tuple[float, float]:
    """(page faults per frame, peak MB beyond the memory held before) after warm-up."""
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(ROUNDS):
        function(*arguments)
    faults = (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults) / ROUNDS
    tracemalloc.start()
    function(*arguments)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.reset_peak()
    function(*arguments)
    peak = (tracemalloc.get_traced_memory()[1] - held) / 1e6
    tracemalloc.stop()
    return faults, peak


def measure(rgb_size, thermal_size, alignment, bar_ms) -> dict:
    """Return the figures of one case."""
    pair = messages(rgb_size, thermal_size)
    path = (CpuBackend(pass_through),
            alignment.mapping(rgb_size=rgb_size, thermal_size=thermal_size),
            GainControl(ThermalSettings()))
    samples = {ours: [], naive: []}
    for _ in range(WARM_UP + ROUNDS):
        samples[ours].append(timed(ours, *path, *pair))
        samples[naive].append(timed(naive, alignment, *pair))
    (own_ms, own_cpu_ms), (naive_ms, naive_cpu_ms) = (zip(*samples[function][WARM_UP:])
                                                      for function in (ours, naive))
    faults, peak_mb = memory_of(ours, *path, *pair)
    return {'p50_ms': statistics.median(own_ms), 'p99_ms': float(np.quantile(own_ms, 0.99)),
            'bar_ms': bar_ms, 'cpu_p50_ms': statistics.median(own_cpu_ms),
            'naive_p50_ms': statistics.median(naive_ms),
            'naive_cpu_p50_ms': statistics.median(naive_cpu_ms),
            'naive_over_ours': statistics.median(naive_cpu_ms) / statistics.median(own_cpu_ms),
            'page_faults_per_frame': faults, 'peak_mb': peak_mb}


def main() -> None:
    """Print every case; one thread unless told otherwise."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--threads', type=int, default=1)
    parser.add_argument('--json', help='also write the figures there')
    options = parser.parse_args()
    keep_freed_memory()
    cv2.setNumThreads(options.threads)
    figures = {name: measure(*case) for name, case in CASES.items()}
    for name, case in figures.items():
        print(f'{name}: p50 {case["p50_ms"]:.2f} ms (bar {case["bar_ms"]:g}), p99 '
              f'{case["p99_ms"]:.2f}, CPU time {case["cpu_p50_ms"]:.2f}; naive p50 '
              f'{case["naive_p50_ms"]:.2f}, '
              f'CPU time {case["naive_cpu_p50_ms"]:.2f}; ratio of the CPU times '
              f'{case["naive_over_ours"]:.1f} (bar 3); page faults '
              f'{case["page_faults_per_frame"]:.1f} a frame; {case["peak_mb"]:.1f} MB '
              f'of arrays')
    if options.json:
        with open(options.json, 'w', encoding='utf-8') as file:
            json.dump({'threads': options.threads, 'cases': figures}, file, indent=1)


if __name__ == '__main__':
    main()
