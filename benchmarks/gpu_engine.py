# SPDX-License-Identifier: Apache-2.0
"""The networks on a CUDA device, 640x480 float16, message bytes to message bytes; each figure beside its bar.

Every network is measured in a process of its own, and its start in two more: with empty compile caches, and with
what the first one left there. A preset without shipped weights gets fresh ones, marked untrained: their pictures
mean nothing, their times do. Without a CUDA device it says so and exits with 1.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from diffmf_ros.models import PRESETS

NETWORKS = tuple(f'{model}/{preset}' for model, presets in PRESETS.items() for preset in presets)
SIZE, LARGE = (640, 480), (1280, 1024)
WARM_UP, FRAMES, ROUNDS, START_FRAMES = 20, 300, 100, 60
STEADY = 1.5  # a frame within so many medians is at steady speed
# figure: ({network: bar}, at most or at least); None stands for every network
BARS = {
    'p50_ms': ({'diffmf/base': 6.0, 'diffmf/light': 3.3}, '<='),
    'p99_over_p50': ({None: 1.15}, '<='),
    'eager_over_graph': ({'diffmf/base': 1.3, 'diffmf/light': 2.0}, '>='),
    'around_replay_ms': ({None: 0.4}, '<='),
    'whole_over_replay': ({'diffmf/base': 1.1}, '<='),
    'peak_allocated_gib': ({'diffmf/base': 1.0, 'diffmf/light': 0.4}, '<='),
    'peak_reserved_gib': ({'diffmf/base': 1.0}, '<='),
    'allocations_per_frame': ({None: 0}, '<='),
    'start_cold_s': ({None: 15.0}, '<='),
    'start_warm_s': ({None: 5.0}, '<='),
    'within_a_level_of_float32': ({None: 0.999}, '>='),
    'large_over_small': ({None: 4.9}, '<='),
}


def settings_of(name: str, folder: Path, **changes):
    """Return (settings, whether trained) for model/preset on CUDA; fresh weights in folder where none are shipped."""
    import torch

    from diffmf_ros import models
    from diffmf_ros.core.settings import DEFAULTS, updated
    from diffmf_ros.inference import weights, weights_header

    model, preset = name.split('/')
    wanted = {'model': model, 'preset': preset, 'device': 'cuda', 'precision': 'float16', **changes}
    try:
        weights_header.shipped(model, preset)
        return updated(DEFAULTS, wanted), True
    except weights_header.WeightsError:
        torch.manual_seed(0)
        path = folder / f'{model}_{preset}.safetensors'
        weights.save_weights(path, models.build(model, preset).state_dict(), model=model, preset=preset, iterations=1,
                             seed=0)
        return updated(DEFAULTS, {**wanted, 'weights': str(path)}), False


def pair_of(messages):
    """Decode an rgb8 and a thermal message to a Pair."""
    from diffmf_ros.core.encodings import decode
    from diffmf_ros.core.frames import RGB, THERMAL, Frame, Pair

    frames = (Frame(stream, 0, '', *decode(**message)) for stream, message in zip((RGB, THERMAL), messages))
    return Pair(*frames, offset_ns=0)


def whole(pipeline, messages):
    """Message bytes to message bytes; refuses to go on when the network did not run."""
    from data_path import outgoing

    result = pipeline.fuse(pair_of(messages))
    if result.mode.value != 'FUSED':
        sys.exit(f'this is not what was to be measured: {"; ".join(result.warnings)}')
    return outgoing(result.pixels)


def timed(function, *arguments) -> float:
    """Milliseconds of one call."""
    start = time.perf_counter()
    function(*arguments)
    return 1e3 * (time.perf_counter() - start)


def messages_of(size):
    """An RGB message of size and a thermal one of half of it."""
    from data_path import messages

    return messages(size, (size[0] // 2, size[1] // 2))


def measure_start(name: str, folder: Path) -> dict:
    """Seconds from the start of this process to the end of the first pair at steady speed."""
    from diffmf_ros.inference.pipeline import FusionPipeline

    pipeline = FusionPipeline(settings_of(name, folder)[0])
    messages = messages_of(SIZE)
    ends_s, spent_ms = [], []
    for _ in range(START_FRAMES):
        spent_ms.append(timed(whole, pipeline, messages))
        ends_s.append(seconds_since_start())
    steady_ms = STEADY * statistics.median(spent_ms[START_FRAMES // 2:])
    first = next(i for i, ms in enumerate(spent_ms) if ms <= steady_ms)
    return {'start_s': ends_s[first], 'first_pair_ms': spent_ms[0]}


def seconds_since_start() -> float:
    """Age of this process, from the kernel's clock."""
    started_ticks = int(Path('/proc/self/stat').read_text().rpartition(')')[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started_ticks / os.sysconf('SC_CLK_TCK')


def measure_network(name: str, folder: Path) -> dict:
    """All figures of one network but those of its start."""
    import torch

    from diffmf_ros.inference.pipeline import FusionPipeline

    settings, trained = settings_of(name, folder)
    pipeline = FusionPipeline(settings)
    messages = messages_of(SIZE)
    for _ in range(WARM_UP):
        whole(pipeline, messages)
    at_start_gib = torch.cuda.max_memory_reserved() / 2 ** 30  # with what captures and tuning needed
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_stats()['allocation.all.allocated']
    samples = [timed(whole, pipeline, messages) for _ in range(FRAMES)]
    allocations = (torch.cuda.memory_stats()['allocation.all.allocated'] - before) / FRAMES
    p50, p99 = np.quantile(samples, (0.5, 0.99))
    figures = {'trained': trained, 'device': pipeline.device, 'problems': pipeline.problems,
               'p50_ms': float(p50), 'p99_ms': float(p99), 'p99_over_p50': float(p99 / p50),
               'allocations_per_frame': allocations,
               'peak_reserved_at_start_gib': at_start_gib,
               'peak_allocated_gib': torch.cuda.max_memory_allocated() / 2 ** 30,
               'peak_reserved_gib': torch.cuda.max_memory_reserved() / 2 ** 30}
    return {**figures, **graph_against_eager(pipeline, messages), **sizes_in_turn(pipeline, messages),
            **against_float32(pipeline, name, folder, messages)}


def graph_against_eager(pipeline, messages) -> dict:
    """Replay of the graph, its operations one by one, and the whole path, in turn."""
    import torch

    from diffmf_ros.inference.device_path import Plan

    pair = pair_of(messages)
    mapping = pipeline.aligner.mapping(rgb_size=pair.rgb.size, thermal_size=pair.thermal.size)
    prepared = pipeline._loaded.guard.network.path._prepared(Plan.of(pair, 1.0, mapping=mapping))
    inputs = [torch.zeros_like(tensor, device='cuda') for tensor in prepared.uploads.take()]
    inputs[2] += 1

    def finished(function):
        function(*inputs)
        torch.cuda.synchronize()

    cases = {'replay': lambda: finished(prepared.replay), 'eager': lambda: finished(prepared.replay._function),
             'whole': lambda: whole(pipeline, messages)}
    samples = {name: [] for name in cases}
    for _ in range(ROUNDS):
        for name, call in cases.items():
            samples[name].append(timed(call))
    replay, eager, total = (statistics.median(samples[name][WARM_UP:]) for name in cases)
    return {'replay_ms': replay, 'eager_ms': eager, 'eager_over_graph': eager / replay,
            'around_replay_ms': total - replay, 'whole_over_replay': total / replay}


def sizes_in_turn(pipeline, messages) -> dict:
    """1280x1024 against 640x480."""
    large = messages_of(LARGE)
    samples = {id(case): [] for case in (messages, large)}
    for _ in range(ROUNDS):
        for case in (messages, large):
            samples[id(case)].append(timed(whole, pipeline, case))
    small_ms, large_ms = (statistics.median(samples[id(case)][WARM_UP:]) for case in (messages, large))
    return {'large_ms': large_ms, 'large_over_small': large_ms / small_ms}


def against_float32(pipeline, name, folder, messages) -> dict:
    """Share of the values of the 8-bit image that float16 leaves within one level of float32."""
    from diffmf_ros.inference.pipeline import FusionPipeline

    exact = FusionPipeline(settings_of(name, folder, precision='float32')[0])
    images = [np.frombuffer(whole(one, messages), np.uint8).astype(int) for one in (pipeline, exact)]
    return {'within_a_level_of_float32': float((np.abs(images[0] - images[1]) <= 1).mean())}


def in_child(what: str, name: str, folder: Path, caches: Path) -> dict:
    """Run measure_<what> in a process of its own, whose compile caches are under caches."""
    environment = {**os.environ, 'TRITON_CACHE_DIR': str(caches / 'triton'), 'CUDA_CACHE_PATH': str(caches / 'cuda'),
                   'TORCHINDUCTOR_CACHE_DIR': str(caches / 'inductor')}
    command = [sys.executable, __file__, '--child', what, '--networks', name, '--folder', str(folder)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        return {'failed': f'measure_{what} ended with {done.returncode}, see above'}
    return json.loads(done.stdout.splitlines()[-1])


def measure(network: str) -> dict:
    """Return all figures of one network, each process starting where the one before left the caches."""
    with tempfile.TemporaryDirectory() as name:
        folder, caches = Path(name), Path(name) / 'caches'
        cold = in_child('start', network, folder, caches)
        warm = in_child('start', network, folder, caches)
        figures = {f'{figure.removesuffix("_s")}_{when}_s' if figure.endswith('_s') else f'{figure}_{when}': value
                   for when, start in (('cold', cold), ('warm', warm)) for figure, value in start.items()}
        return {**figures, **in_child('network', network, folder, caches)}


def line(network: str, figure: str, value) -> str:
    """A figure, its bar and whether it is met."""
    bars, sense = BARS.get(figure, ({}, '<='))
    bar = bars.get(network, bars.get(None))
    shown = f'{value:.4g}' if isinstance(value, float) else str(value)
    if bar is None:
        return f'{network:16} {figure:28} {shown}'
    met = value <= bar if sense == '<=' else value >= bar
    return f'{network:16} {figure:28} {shown:12} bar {sense} {bar:g}: {"met" if met else "MISSED"}'


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--networks', nargs='+', choices=NETWORKS, default=NETWORKS)
    parser.add_argument('--json', type=Path, help='also write the figures there')
    parser.add_argument('--child', choices=('start', 'network'), help=argparse.SUPPRESS)
    parser.add_argument('--folder', type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    import torch
    if not torch.cuda.is_available():
        sys.exit(f'no CUDA device is at hand (torch {torch.__version__}): nothing was measured')
    if options.child:
        print(json.dumps({'start': measure_start, 'network': measure_network}[options.child](
            options.networks[0], options.folder)))
        return
    report = {'device': torch.cuda.get_device_name(), 'torch': torch.__version__, 'cuda': torch.version.cuda,
              'python': platform.python_version(), 'size': SIZE, 'networks': {}}
    for network in options.networks:
        figures = report['networks'][network] = measure(network)
        print('\n'.join(line(network, *item) for item in figures.items()), flush=True)
        if options.json:  # after each network: what a time limit cuts off is only the rest
            options.json.write_text(json.dumps(report, indent=1), encoding='utf-8')


if __name__ == '__main__':
    main()
