# SPDX-License-Identifier: Apache-2.0
"""Training steps as one CUDA graph: a step of some 1,400 small kernels takes longer to launch than
to compute."""

from collections.abc import Callable
from functools import partial

import torch

from .data import Batch

# Steps before the capture: kernels are compiled and tuned, and the optimizer makes its state.
WARM_UPS = 3

Step = Callable[[Batch], torch.Tensor]
Replay = Callable[[], torch.Tensor]


def capture_cuda(step: Replay) -> Replay:
    """Capture a step, which is not carried out meanwhile, as a CUDA graph.

    Args:
        step: Computes on tensors that stay where they are, and waits for nothing.

    Returns:
        A function that carries the step out and returns the tensor that it returned, which is
        overwritten by the next call.

    Raises:
        RuntimeError: The step cannot be captured.
    """
    stream, graph = torch.cuda.current_stream(), torch.cuda.CUDAGraph()
    try:
        # Other threads of this process, such as those that pin memory, do not end the capture.
        with torch.cuda.graph(graph, capture_error_mode='thread_local'):
            result = step()
    except RuntimeError:
        torch.cuda.set_stream(stream)  # a capture that fails at its end leaves its own behind
        raise

    def replay() -> torch.Tensor:
        graph.replay()
        return result

    return replay


class StepGraph:
    """A training step that is launched at once, after WARM_UPS steps that are not.

    `problem` says why there is no graph: then every kernel is launched by itself. Empty: none.
    """

    def __init__(self, step: Step, *, capture: Callable[[Replay], Replay] = capture_cuda):
        """Keep the step.

        Args:
            step: Trains on a batch, always of the same shapes; returns a tensor.
            capture: Makes the graph.
        """
        self.problem = ''
        self._step, self._capture = step, capture
        self._steps = 0
        self._batch: Batch | None = None
        self._replay: Replay | None = None

    def __call__(self, batch: Batch) -> torch.Tensor:
        """Train on a batch of tensors; return what the step returns.

        The next call may overwrite it.
        """
        self._steps += 1
        if self.problem:
            return self._step(batch)
        if self._steps <= WARM_UPS:
            return _on_side_stream(self._step, batch)
        if self._batch is None:
            self._batch = batch.mapped(torch.clone)
            try:
                self._replay = self._capture(partial(self._step, self._batch))
            except RuntimeError as error:
                self.problem = ('no CUDA graph could be captured of a training step, every kernel '
                                f'is launched by itself: {error}')
                return self._step(batch)
        else:
            self._batch.copy_(batch)
        return self._replay()  # type: ignore[misc]


def _on_side_stream(step: Step, batch: Batch) -> torch.Tensor:
    """Return step(batch), on another stream than the default one, which cannot be captured."""
    if not batch.ir.is_cuda:  # type: ignore[attr-defined]  # a batch of tensors
        return step(batch)
    main, side = torch.cuda.current_stream(), torch.cuda.Stream()
    side.wait_stream(main)
    with torch.cuda.stream(side):
        result = step(batch)
    main.wait_stream(side)
    return result
