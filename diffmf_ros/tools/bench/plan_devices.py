# SPDX-License-Identifier: Apache-2.0
"""How long kernels take on a GPU: rates measured on an H200, and those of data sheets.

A kernel takes the longest of what every kernel takes and its bytes, its operations and its
exponentials at the GPU's rates. Three kinds were measured to be slower than all of these say and
have
a rate of their own: half-precision depth-wise convolutions of cuDNN, torch's layer norm, and the
token-by-token walk of the selective scan. On other GPUs these go by the number of multiprocessors
times their clock, which is a guess; nothing but the H200 was measured.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from .plan_operations import Kernel

# Measured on the H200, 640x480 float16 features (docs/performance.md).
DEPTHWISE_S = 56e-12  # an output element of cuDNN's depth-wise 3x3 in half precision
NORM_S = 6.3e-12  # an element of torch's layer norm, 64 to 128 channels; a row is NORM_ROW more
SCAN_S, SCAN_TOKEN_S = 1.3e-12, 0.25e-6  # a step of one state; a token that a program walks
SFU_A_CLOCK = 16  # exponentials of a multiprocessor in one clock, since Turing


@dataclass(frozen=True)
class Gpu:
    """Rates of one GPU.

    Args:
        name: As its maker calls it.
        bytes_per_s: Read and written.
        half_operations_per_s: Of matrix products of float16 (a multiply-add is two).
        float_operations_per_s: The same of float32.
        multiprocessors, clock_hz: From the data sheet.
        kernel_s: The least time of a kernel inside a CUDA graph.
        gap_s: Between two of these.
        launch_s: What the CPU takes to launch one outside of a graph; 0 where it is not known.
        measured: Rates are those of a measurement, else those of the data sheet.
    """

    name: str
    bytes_per_s: float
    half_operations_per_s: float
    float_operations_per_s: float
    multiprocessors: int
    clock_hz: float
    kernel_s: float
    gap_s: float
    launch_s: float = 0.0
    measured: bool = False

    @property
    def exponentials_per_s(self) -> float:
        """Exponentials of all multiprocessors."""
        return SFU_A_CLOCK * self.multiprocessors * self.clock_hz

    def seconds(self, kernel: Kernel) -> float:
        """Return the predicted time of one kernel."""
        operations = self.float_operations_per_s if kernel.exact else self.half_operations_per_s
        return max(self.kernel_s, kernel.bytes_moved / self.bytes_per_s,
                   kernel.operations / operations, kernel.exponentials / self.exponentials_per_s,
                   _own_rate_s(kernel) * _slower(self))

    def kernels_ms(self, kernels: Iterable[Kernel]) -> float:
        """Return the predicted sum of the times of all kernels."""
        return 1e3 * sum(map(self.seconds, kernels))

    def replay_ms(self, kernels: list[Kernel]) -> float:
        """Return the predicted time of a CUDA graph of the kernels."""
        return self.kernels_ms(kernels) + 1e3 * self.gap_s * len(kernels)

    def eager_ms(self, kernels: list[Kernel]) -> float | None:
        """Return the predicted time of kernels launched one by one, None where it is not known."""
        launches_ms = 1e3 * self.launch_s * len(kernels)
        return max(launches_ms, self.replay_ms(kernels)) if self.launch_s else None

    def floor_ms(self, *, bytes_moved: float, operations: float) -> float:
        """Return the larger of bytes and half-precision operations over their rates."""
        return 1e3 * max(bytes_moved / self.bytes_per_s, operations / self.half_operations_per_s)


def _own_rate_s(kernel: Kernel) -> float:
    """Seconds on the H200 of a kind that has a rate of its own, else 0."""
    if kernel.kind == 'depthwise':
        return DEPTHWISE_S * kernel.units
    if kernel.kind == 'layer_norm':
        return NORM_S * kernel.units
    if kernel.kind == 'scan':
        return SCAN_TOKEN_S * kernel.serial + SCAN_S * kernel.units
    return 0.0


def _slower(gpu: Gpu) -> float:
    """Return how many times slower than the H200's are the multiprocessors of a GPU together."""
    return H200.multiprocessors * H200.clock_hz / (gpu.multiprocessors * gpu.clock_hz)


H200 = Gpu('H200', 2.7e12, 260e12, 60e12, 132, 1.98e9, 1.9e-6, 0.4e-6, 15e-6, measured=True)
# Bandwidth and dense matrix rates of the data sheets. What a kernel takes at least stands in none:
# the H200's times the ratio of the clocks is assumed.
GPUS = (
    H200,
    Gpu('RTX 4090', 1008e9, 165e12, 82.6e12, 128, 2.52e9, 1.9e-6, 0.4e-6),
    Gpu('AGX Thor', 273e9, 258e12, 8.1e12, 20, 1.57e9, 2.4e-6, 0.5e-6),
    Gpu('AGX Orin 64 GB', 204.8e9, 42.5e12, 5.3e12, 16, 1.3e9, 2.9e-6, 0.6e-6),
)
