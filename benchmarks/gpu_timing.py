# SPDX-License-Identifier: Apache-2.0
"""GPU time of functions, in turn in one process, without what the CPU needs to launch them."""

import statistics
from collections.abc import Callable

import torch

ROUNDS, REPLAYS = 21, 5


def milliseconds(functions: dict[str, Callable]) -> dict[str, float]:
    """Median GPU milliseconds of one call of each function, captured in a graph and replayed A, B,
    ..., A, B, ...."""
    graphs = {name: _captured(function) for name, function in functions.items()}
    times = {name: [] for name in functions}
    for _ in range(ROUNDS):
        for name, graph in graphs.items():
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            for _ in range(REPLAYS):
                graph.replay()
            end.record()
            end.synchronize()
            times[name].append(start.elapsed_time(end) / REPLAYS)
    return {name: statistics.median(found) for name, found in times.items()}


def _captured(function: Callable) -> torch.cuda.CUDAGraph:
    """A graph of one call, captured after the function has run once and compiled what it compiles.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream), torch.inference_mode():
        function()
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph), torch.inference_mode():
        function()
    graph.replay()
    torch.cuda.synchronize()
    return graph
