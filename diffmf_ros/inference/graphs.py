# SPDX-License-Identifier: Apache-2.0
"""A function of tensors as one CUDA graph, and the pinned memory that its inputs and its output
pass through.

A network of some 700 small kernels costs more time to launch than to run; a graph launches them at
once. On a CPU the same classes call the function and copy nothing but the inputs.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch

# Before a capture: kernels are loaded, tuned and compiled, and their work space is allocated.
WARM_UPS = 3
# As numpy knows them, for torch has no arithmetic on uint16: its bits travel as int16.
_TRANSPORT = {'uint8': torch.uint8, 'uint16': torch.int16, 'float32': torch.float32}


class Replay:
    """Calls function(*inputs) -> tensor for inputs of always the same shapes, as a CUDA graph
    where there is CUDA.

    inputs are examples: their device decides, and the capture warms up on their values. When the
    capture fails the function runs as it is, and `problem` says why; else `problem` is None.
    Inside function nothing may wait for the device, and tensors that it keeps must exist after the
    first call.
    """

    def __init__(self, function: Callable[..., torch.Tensor], inputs: Sequence[torch.Tensor]):
        self._function, self._graph = function, None
        self.problem: str | None = None
        if inputs[0].is_cuda:
            stream = torch.cuda.current_stream()
            try:
                self._capture(inputs)
            except RuntimeError as error:
                # a capture that fails at its end leaves its own stream behind
                torch.cuda.set_stream(stream)
                self.problem = (f'no CUDA graph could be captured, every kernel is launched by '
                                f'itself: {error}')

    # inputs of a capture inside this mode may not be written outside of it
    @torch.inference_mode()
    def __call__(self, *inputs: torch.Tensor) -> torch.Tensor:
        """Return function(*inputs), without gradients; the next call may overwrite it."""
        if self._graph is None:
            return self._function(*inputs)
        for static, value in zip(self._inputs, inputs):
            static.copy_(value, non_blocking=True)
        self._graph.replay()
        return self._output

    def _capture(self, inputs):
        self._inputs = [value.clone() for value in inputs]
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UPS):
                self._function(*self._inputs)
        graph = torch.cuda.CUDAGraph()
        # Waits for the warm-up and frees its memory first. Other threads may use the device
        # meanwhile.
        with torch.cuda.graph(graph, capture_error_mode='thread_local'):
            self._output = self._function(*self._inputs)
        self._graph = graph


class Uploads:
    """Arrays of fixed shapes on their way to the device, through two sets of pinned buffers used
    in turn.

    The copies run on a stream of their own, so that writing one array overlaps the copy of the one
    before, and a pair that is given up half way does not disturb the next one. On a CPU the
    buffers are plain memory and are themselves the result.
    """

    def __init__(self, specs: Sequence[tuple[tuple[int, ...], str]], *, device: str):
        """specs: (shape, numpy type: uint8, uint16 or float32) of every array."""
        self._stream = torch.cuda.Stream() if device == 'cuda' else None
        self._sets = [_BufferSet(specs, device) for _ in range(2)]

    def write(self, index: int, array: np.ndarray) -> None:
        """Start the upload of array number index.

        It may be strided or read-only, and is not needed after.
        """
        buffers = self._sets[0]
        if index == 0 and self._stream is not None:
            buffers.uploaded.synchronize()
            self._stream.wait_event(buffers.free)
        np.copyto(buffers.host[index].numpy().view(array.dtype), array)
        if self._stream is not None:
            with torch.cuda.stream(self._stream):
                buffers.device[index].copy_(buffers.host[index], non_blocking=True)
                buffers.uploaded.record()

    def take(self) -> list[torch.Tensor]:
        """Return what was written, on the device, uint16 as the same bits in int16.

        The other set is next.

        The current stream waits for the uploads, the caller does not.
        """
        buffers, other = self._sets
        self._sets.reverse()
        if self._stream is not None:
            other.free.record()  # all that reads it has been launched by now
            torch.cuda.current_stream().wait_event(buffers.uploaded)
        return buffers.device


class _BufferSet:
    """One set of buffers on both sides.

    `uploaded` and `free` say when either side may be written again.
    """

    def __init__(self, specs, device):
        cuda = device == 'cuda'
        self.host = [torch.zeros(shape, dtype=_TRANSPORT[dtype], pin_memory=cuda) for shape,
                     dtype in specs]
        self.device = [torch.zeros_like(buffer, device=device)
                       for buffer in self.host] if cuda else self.host
        if cuda:
            self.uploaded, self.free = torch.cuda.Event(), torch.cuda.Event()
            self.free.record()


class Download:
    """Brings one uint8 tensor of a fixed number of bytes to the host."""

    def __init__(self, size: int, *, device: str):
        self._pinned = torch.empty(size, dtype=torch.uint8,
                                   pin_memory=True) if device == 'cuda' else None
        self._done = torch.cuda.Event() if device == 'cuda' else None

    def __call__(self, tensor: torch.Tensor, meanwhile: Callable[[], object]) -> np.ndarray:
        """Return the values of tensor, flat, when the device has them.

        The next call may overwrite them. meanwhile is called while the device works.
        """
        if self._pinned is None or self._done is None:
            meanwhile()
            return tensor.numpy()
        self._pinned.copy_(tensor, non_blocking=True)
        self._done.record()
        meanwhile()
        self._done.synchronize()
        return self._pinned.numpy()
