# SPDX-License-Identifier: Apache-2.0
"""One network on a GPU, from message bytes to message bytes.

    python benchmarks/gpu_engine.py PART MODEL/PRESET --json FILE

first  p50 and the replay of its graph, beside what `diffmf bench --plan` predicts: seconds.
full   p99, graph against eager, memory, float16 against float32, 1280x1024 against 640x480.
start  seconds from the start of a process to pairs at steady speed, in this process.
step   training steps a second, with batches of noise, beside what the plan predicts.

A preset without shipped weights gets fresh ones: their pictures mean nothing, their times do. With
--device cpu everything that needs no GPU runs, on small images, to try the script.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from contextlib import closing
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from data_path import messages, outgoing

from diffmf_ros import models
from diffmf_ros.core.frames import RGB, THERMAL, Frame, Pair
from diffmf_ros.core.imaging.encodings import decode_message
from diffmf_ros.core.settings import DEFAULTS, with_changes
from diffmf_ros.inference import weights, weights_header
from diffmf_ros.inference.pipeline import FusionPipeline

SIZE, LARGE = (640, 480), (1280, 1024)
STAND_IN_SIZE = (96, 64)  # of a CPU that stands in for the GPU
WARM_UP, FIRST_FRAMES, FRAMES, ROUNDS, START_FRAMES = 20, 60, 300, 60, 60
STAND_IN_FRAMES = 6
BATCH, CROP, STEPS, STEPS_S = 12, 128, 1000, 25.0  # training steps: at most so many, or seconds
STAND_IN_STEP = {'batch': 2, 'crop': 32, 'iterations': 6}
PERIOD_NS = 33_000_000  # between pairs: the filter over time works as in a stream
STEADY = 1.5  # a frame within so many medians is at steady speed


def settings_of(name: str, folder: Path, device: str, **changes):
    """Return (settings, whether trained) for model/preset.

    Fresh weights in folder where none are shipped.
    """
    model, preset = name.split('/')
    precision = 'float16' if device == 'cuda' else 'auto'
    wanted = {'model': model, 'preset': preset, 'device': device, 'precision': precision,
              **changes}
    try:
        weights_header.shipped(model, preset)
        return with_changes(DEFAULTS, wanted), True
    except weights_header.WeightsError:
        torch.manual_seed(0)
        path = folder / f'{model}_{preset}.safetensors'
        network = models.build(model, preset)
        weights.save_weights(path, network.state_dict(), model=model, preset=preset, iterations=1,
                             seed=0)
        return with_changes(DEFAULTS, {**wanted, 'weights': str(path)}), False


class Bench:
    """A pipeline with one network, and pairs for it."""

    def __init__(self, name: str, folder: Path, device: str):
        self.name, self.folder, self.device = name, folder, device
        settings, self.trained = settings_of(name, folder, device)
        self.pipeline = FusionPipeline(settings)
        self.size = SIZE if device == 'cuda' else STAND_IN_SIZE
        self.messages = self.messages_of(self.size)
        self.stamps_ns = count(PERIOD_NS, PERIOD_NS)
        self.stages_ms: list[dict[str, float]] = []  # of every pair

    def messages_of(self, size):
        """An RGB message of size and a thermal one of half of it."""
        return messages(size, (size[0] // 2, size[1] // 2))

    def frames(self, wanted: int) -> int:
        """Return how many frames to measure: wanted on a GPU, fewer on a stand-in."""
        return wanted if self.device == 'cuda' else min(wanted, STAND_IN_FRAMES)

    def whole(self, pair_messages=None, pipeline=None):
        """Message bytes to message bytes; refuses to go on when the network did not run."""
        stamp_ns = next(self.stamps_ns)
        frames = (Frame(stream, stamp_ns, '', *decode_message(SimpleNamespace(**message)))
                  for stream, message in zip((RGB, THERMAL), pair_messages or self.messages))
        result = (pipeline or self.pipeline).fuse(Pair(*frames, offset_ns=0))
        if result.mode.value != 'FUSED':
            sys.exit(f'this is not what was to be measured: {"; ".join(result.warnings)}')
        self.stages_ms.append(dict(result.timings_ms))
        return outgoing(result.pixels)

    def samples_ms(self, wanted: int, call=None, *arguments) -> list[float]:
        """Return the milliseconds of each of frames(wanted) calls."""
        return [timed(call or self.whole, *arguments) for _ in range(self.frames(wanted))]


def timed(function, *arguments) -> float:
    """Milliseconds of one call."""
    start = time.perf_counter()
    function(*arguments)
    return 1e3 * (time.perf_counter() - start)


def first(bench: Bench) -> dict:
    """Return the figures that matter most."""
    first_pair_ms = timed(bench.whole)
    bench.samples_ms(WARM_UP)
    samples = bench.samples_ms(FIRST_FRAMES)
    return {**about(bench), 'first_pair_ms': first_pair_ms, 'p50_ms': float(np.median(samples)),
            'p99_ms': float(np.quantile(samples, 0.99)), **host_stages(bench, len(samples)),
            **graph_against_eager(bench, rounds=20), **predicted(bench)}


def host_stages(bench: Bench, frames: int) -> dict:
    """Return the host's ms before and behind the network, medians of the last frames."""
    stages = bench.stages_ms[-frames:]
    before, behind = ([sum(each.get(name, 0.0) for name in names) for each in stages]
                      for names in (('align',), ('color',)))
    return {'before_network_ms': statistics.median(before),
            'behind_network_ms': statistics.median(behind)}


def about(bench: Bench) -> dict:
    """Return what was timed: weights, device, size, and problems of the pipeline."""
    return {'trained': bench.trained, 'runs_on': bench.pipeline.device, 'size': bench.size,
            'problems': [issue.text for issue in bench.pipeline.issues]}


def predicted(bench: Bench) -> dict:
    """Return what `diffmf bench --plan` says about a pair on an H200."""
    from diffmf_ros.tools.bench.plan import PlanError, plan_pair
    from diffmf_ros.tools.bench.plan_operations import H200
    try:
        plan = plan_pair(*bench.name.split('/'), bench.size)
    except PlanError as error:
        return {'predicted': str(error)}
    return {'predicted_h200_ms': plan.times_ms(H200)['predicted_ms'],
            'planned_kernels': len(plan.kernels)}


def full(bench: Bench) -> dict:
    """Return all figures but those of the start."""
    bench.samples_ms(WARM_UP)
    figures = about(bench)
    if bench.device == 'cuda':
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_stats()['allocation.all.allocated']
    samples = bench.samples_ms(FRAMES)
    if bench.device == 'cuda':
        allocated = torch.cuda.memory_stats()['allocation.all.allocated'] - before
        figures |= {'allocations_per_frame': allocated / len(samples),
                    'peak_allocated_gib': torch.cuda.max_memory_allocated() / 2 ** 30,
                    'peak_reserved_gib': torch.cuda.max_memory_reserved() / 2 ** 30}
    p50, p99 = np.quantile(samples, (0.5, 0.99))
    return {**figures, 'p50_ms': float(p50), 'p99_ms': float(p99),
            'p99_over_p50': float(p99 / p50), **graph_against_eager(bench, rounds=ROUNDS),
            **sizes_in_turn(bench),
            **against_float32(bench)}


def graph_against_eager(bench: Bench, *, rounds: int) -> dict:
    """Replay of the graph, its operations one by one, and the whole path, in turn.

    Nothing on a CPU.
    """
    if bench.device != 'cuda':
        return {}
    from diffmf_ros.inference.cuda_backend import Plan

    frames = (Frame(stream, 0, '', *decode_message(SimpleNamespace(**message))) for stream,
              message in zip((RGB, THERMAL), bench.messages))
    pair = Pair(*frames, offset_ns=0)
    mapping = bench.pipeline.aligner.mapping(rgb_size=pair.rgb.size,
                                             thermal_size=pair.thermal.size)
    prepared = bench.pipeline._loaded.runner.network.backend._prepared(
        Plan.of(pair, 1.0, mapping=mapping))
    inputs = [torch.zeros_like(tensor, device='cuda') for tensor in prepared.uploads.take()]
    inputs[2] += 1

    def finished(function):
        function(*inputs)
        torch.cuda.synchronize()

    cases = {'replay': lambda: finished(prepared.replay),
             'eager': lambda: finished(prepared.replay._function),
             'whole': bench.whole}
    samples = {name: [] for name in cases}
    for _ in range(rounds):
        for name, call in cases.items():
            samples[name].append(timed(call))
    replay, eager, total = (statistics.median(samples[name][rounds // 4:]) for name in cases)
    return {'replay_ms': replay, 'eager_ms': eager, 'eager_over_graph': eager / replay,
            'around_replay_ms': total - replay, 'whole_over_replay': total / replay}


def sizes_in_turn(bench: Bench) -> dict:
    """1280x1024 against 640x480; a stand-in takes twice its sides."""
    large = bench.messages_of(LARGE if bench.device == 'cuda'
                              else tuple(2 * side for side in bench.size))
    small_ms, large_ms = [], []
    for _ in range(bench.frames(ROUNDS)):
        small_ms.append(timed(bench.whole))
        large_ms.append(timed(bench.whole, large))
    small, big = (statistics.median(samples[len(samples) // 3:])
                  for samples in (small_ms, large_ms))
    return {'large_ms': big, 'large_over_small': big / small}


def against_float32(bench: Bench) -> dict:
    """Share of the values of the 8-bit image that half precision leaves within one level of
    float32."""
    settings, _ = settings_of(bench.name, bench.folder, bench.device, precision='float32')
    exact = FusionPipeline(settings)
    images = [np.frombuffer(bench.whole(pipeline=one), np.uint8).astype(int)
              for one in (bench.pipeline, exact)]
    return {'within_a_level_of_float32': float((np.abs(images[0] - images[1]) <= 1).mean())}


def start(bench: Bench) -> dict:
    """Seconds from the start of this process to the end of the first pair at steady speed."""
    ends_s, spent_ms = [], []
    for _ in range(bench.frames(START_FRAMES)):
        spent_ms.append(timed(bench.whole))
        ends_s.append(seconds_since_start())
    steady_ms = STEADY * statistics.median(spent_ms[len(spent_ms) // 2:])
    steady = next(i for i, ms in enumerate(spent_ms) if ms <= steady_ms)
    return {'start_s': ends_s[steady], 'first_pair_ms': spent_ms[0]}


def step(name: str, folder: Path, device: str) -> dict:
    """Steps a second once a graph is captured, with their batches; what one is predicted to take.
    """
    from diffmf_ros.io.folders import LumaPair
    from diffmf_ros.tools.bench.plan import plan_step
    from diffmf_ros.tools.bench.plan_operations import H200
    from diffmf_ros.tools.training.config import TrainConfig
    from diffmf_ros.tools.training.data import CropSampler, batches_on
    from diffmf_ros.tools.training.loop import WARM_UPS, Trainer
    from diffmf_ros.tools.training.losses import PRESETS, LossWeights

    model, preset = name.split('/')
    sizes = {'batch': BATCH, 'crop': CROP, 'iterations': STEPS}
    config = TrainConfig(data='', out=str(folder), model=model, preset=preset, device=device,
                         precision='bfloat16',
                         loss=PRESETS['target'] if model == 'diffmf' else LossWeights(),
                         **(sizes if device == 'cuda' else STAND_IN_STEP))
    trainer = Trainer(config)
    random = np.random.default_rng(0)
    pairs = [LumaPair(str(i), *random.integers(0, 256, (2, 480, 640), np.uint8)) for i in range(8)]
    sampler = CropSampler(pairs, crop=config.crop, batch=config.batch, seed=0)
    ends_s = [time.perf_counter()]
    with closing(batches_on(trainer.device, sampler, first=0, end=config.iterations)) as batches:
        for batch in batches:
            trainer.step(batch)
            ends_s.append(time.perf_counter())
            if ends_s[-1] - ends_s[0] > STEPS_S:
                break
    steady_s = np.diff(ends_s)[WARM_UPS + 1:]
    plan = plan_step(model, preset, batch=config.batch, crop=config.crop)
    graph = trainer.graph
    peak = torch.cuda.max_memory_allocated() / 2 ** 30 if device == 'cuda' else None
    return {'iterations_per_s': len(steady_s) / float(steady_s.sum()),
            'steps': len(ends_s) - 1, 'step_p50_ms': 1e3 * float(np.median(steady_s)),
            'until_graph_s': ends_s[WARM_UPS + 1] - ends_s[0],
            'captured': graph is not None and not graph.problem, 'peak_gib': peak,
            'problems': [*trainer.problems, *([graph.problem] if graph and graph.problem else [])],
            'planned_kernels': len(plan.kernels),
            'predicted_h200_ms': plan.times_ms(H200)['predicted_ms']}


def seconds_since_start() -> float:
    """Age of this process, from the kernel's clock."""
    started_ticks = int(Path('/proc/self/stat').read_text().rpartition(')')[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started_ticks / os.sysconf('SC_CLK_TCK')


def main() -> None:
    """Measure, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('part', choices=('first', 'full', 'start', 'step'))
    parser.add_argument('network', help='MODEL/PRESET')
    parser.add_argument('--device', choices=('cuda', 'cpu'), default='cuda')
    parser.add_argument('--json', type=Path, required=True)
    options = parser.parse_args()
    if options.device == 'cuda' and not torch.cuda.is_available():
        sys.exit(f'no CUDA device is at hand (torch {torch.__version__}): nothing was measured')
    with tempfile.TemporaryDirectory() as folder:
        about = options.network, Path(folder), options.device
        figures = step(*about) if options.part == 'step' else {
            'first': first, 'full': full, 'start': start}[options.part](Bench(*about))
    options.json.write_text(json.dumps(figures, indent=1))


if __name__ == '__main__':
    main()
