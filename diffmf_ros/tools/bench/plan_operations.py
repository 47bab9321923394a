# SPDX-License-Identifier: Apache-2.0
"""What an operation of a network costs: bytes, operations, launches of kernels; and how long
kernels take on a GPU: rates measured on an H200, and those of data sheets.

A kernel takes the longest of what every kernel takes and its bytes, its operations and its
exponentials at the GPU's rates. Three kinds were measured to be slower than all of these say and
have a rate of their own: half-precision depth-wise convolutions of cuDNN, torch's layer norm, and
the token-by-token walk of the selective scan. On other GPUs these go by the number of
multiprocessors times their clock, which is a guess; nothing but the H200 was measured.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Kernel:
    """One launch on a GPU.

    Args:
        name: Operation of torch, or name of the Triton kernel.
        bytes_read: Each input once, wherever it comes from.
        bytes_written: Each output once.
        operations: Of matrix products and convolutions; a multiply-add is two.
        exact: Those are products of float32 numbers.
        exponentials: exp, sigmoid, tanh or erf of one value.
        kind: 'plain', or a kind whose rate was measured by itself: see Gpu.
        units: Of that kind: elements, or steps of a scan.
        serial: Tokens that a program of a scan walks one after the other.
    """

    name: str
    bytes_read: int = 0
    bytes_written: int = 0
    operations: int = 0
    exact: bool = False
    exponentials: int = 0
    kind: str = 'plain'
    units: int = 0
    serial: int = 0

    @property
    def bytes_moved(self) -> int:
        """Bytes read and written."""
        return self.bytes_read + self.bytes_written


# Exponentials for each element of the output.
EXPONENTIALS = dict.fromkeys(('exp', 'sigmoid', 'silu', 'gelu', 'tanh', '_softmax', 'expm1',
                              'silu_backward', 'softplus_backward'), 1)
EXPONENTIALS |= {'softplus': 2, 'log_sigmoid_forward': 2, 'gelu_backward': 2}


def plain(name: str, inputs: list, outputs: list, **changes) -> Kernel:
    """Return one kernel that reads every input and writes every output once."""
    base = name.rstrip('_')
    written = sum(map(moved_bytes, outputs))
    overwritten = name in ('copy_', 'fill_', 'zero_', 'normal_', 'uniform_')
    read = sum(moved_bytes(t) for t in unique(inputs[1:] if overwritten else inputs))
    exponentials = EXPONENTIALS.get(base, 0) * sum(t.numel() for t in outputs)
    return Kernel(name, read, written, **{'exponentials': exponentials} | changes)


def is_view(operation) -> bool:
    """Return whether an operation returns views of its inputs and writes nothing."""
    returned = operation._schema.returns
    return bool(returned) and all(r.alias_info is not None and not r.alias_info.is_write
                                  for r in returned)


def tensors_in(values) -> Iterator[torch.Tensor]:
    """Yield the tensors of nested lists and mappings."""
    if isinstance(values, torch.Tensor):
        yield values
    elif isinstance(values, dict):
        yield from tensors_in(list(values.values()))
    elif isinstance(values, (list, tuple)):
        for value in values:
            yield from tensors_in(value)


def unique(tensors: list) -> list:
    """Return the tensors without doubles of the same object."""
    return list({id(tensor): tensor for tensor in tensors}.values())


def moved_bytes(tensor: torch.Tensor) -> int:
    """Return the bytes of a tensor, an element that it repeats (stride 0) counted once."""
    sides = (side for side, stride in zip(tensor.shape, tensor.stride()) if stride or side == 0)
    return math.prod(sides) * tensor.element_size()


def is_channels_last(tensor) -> bool:
    """Return whether channels of B x C x H x W are neighbors in memory, tokens maybe apart."""
    return (tensor.dim() == 4 and tensor.shape[1] > 1 and tensor.stride(1) == 1
            and tensor.stride(3) >= tensor.shape[1])


ALLOCATES = {'empty', 'empty_like', 'empty_strided', 'new_empty', 'new_empty_strided',
             'lift_fresh', 'resize_', 'set_', '_unsafe_view', '_reshape_alias'}
NORM_ROW = 110  # elements that a row of torch's layer norm costs beside its own, as measured
# Tensors in a launch of torch's multi-tensor kernels, by the number of lists they go through.
TENSORS_IN_A_LAUNCH = {1: 110, 2: 64, 3: 48, 4: 36, 5: 30}


def kernels_of(operation, arguments: list, outputs: list, options: dict) -> Iterator[Kernel]:
    """Yield what an operation of torch launches.

    Args:
        operation: Overload, such as torch.ops.aten.mm.default.
        arguments: Its positional arguments, tensors possibly in lists.
        outputs: Tensors that it returned.
        options: Its keyword arguments.

    Yields:
        Kernels, none for a view or an allocation.
    """
    name = operation._schema.name.rpartition('::')[2]
    if name in ALLOCATES or is_view(operation):
        return
    inputs = list(tensors_in([arguments, options]))
    special = SPECIAL.get(name)
    if name.startswith('_foreach') or name.startswith('_fused'):
        yield from _multi_tensor(name, arguments, inputs, outputs)
    elif special is not None:
        yield from special(name, arguments, inputs, outputs)
    else:
        yield plain(name, inputs, outputs)


def _matrix(name, arguments, inputs, outputs):
    """A matrix product: ... x m x k times ... x k x n."""
    width = inputs[-1].shape[-2]
    yield plain(name, inputs, outputs, operations=2 * outputs[0].numel() * width,
                exact=_exact(inputs[0]))


def _convolution(name, arguments, inputs, outputs):
    """A convolution, then its bias by itself; channels-last weights want their input so."""
    image, weight, bias = arguments[:3]
    transposed, groups = arguments[6], arguments[8]
    depthwise = groups > 1 and groups == weight.shape[0]
    wanted = any(map(is_channels_last, (image, weight)))
    if wanted and not image.is_contiguous(memory_format=torch.channels_last):
        yield Kernel('layout copy', moved_bytes(image), moved_bytes(image))
    products = (image if transposed else outputs[0]).numel() * weight[0].numel()
    exact = _exact(image)
    kind = {'kind': 'depthwise', 'units': outputs[0].numel()} if depthwise and not exact else {}
    yield plain('depthwise' if depthwise else name, [image, weight], outputs,
                operations=2 * products, exact=exact, **kind)
    if bias is not None:
        yield Kernel('bias', moved_bytes(outputs[0]), moved_bytes(outputs[0]))


def _convolution_backward(name, arguments, inputs, outputs):
    """Gradients of input, weight and bias, as far as they are wanted, one kernel each."""
    gradient, image, weight = arguments[:3]
    groups, wanted = arguments[9:11]
    exact, results = _exact(image), iter(outputs)
    kind = {'kind': 'depthwise', 'units': image.numel()} if groups > 1 and not exact else {}
    operations = 2 * gradient.numel() * weight[0].numel()
    for what, other in zip(('input', 'weight'), (weight, image)):
        if wanted[what == 'weight']:
            yield plain(f'{name} {what}', [gradient, other], [next(results)],
                        operations=operations, exact=exact, **kind)
    if wanted[2]:
        yield plain(f'{name} bias', [gradient], [next(results)])


def _layer_norm(name, arguments, inputs, outputs):
    """Torch's layer norm; the mean and deviation that it also returns are small."""
    rows = inputs[0].numel() // inputs[0].shape[-1]
    units = inputs[0].numel() + NORM_ROW * rows
    yield plain(name, inputs, outputs, kind='layer_norm', units=units)


def _layer_norm_backward(name, arguments, inputs, outputs):
    """The gradient of the input, and those of the parameters."""
    yield plain(name, inputs, outputs[:1])
    yield plain(f'{name} parameters', inputs[:2], outputs[1:])


def _attention(name, arguments, inputs, outputs):
    """Fused attention: scores never reach the memory."""
    query, key = inputs[:2]
    pairs = query.numel() // query.shape[-1] * key.shape[-2]
    yield plain(name, inputs[:3], outputs[:1], operations=4 * pairs * query.shape[-1],
                exponentials=pairs, exact=_exact(query))


def _pad(name, arguments, inputs, outputs):
    """Torch fills the whole output, then copies the input into it."""
    yield plain('fill_', [], outputs)
    yield plain('copy_', [inputs[0]] * 2, [inputs[0]])


def _reads_what_it_takes(name, arguments, inputs, outputs):
    """A gather: of its source as much as it returns, and the indices."""
    yield Kernel(
        name,
        sum(map(moved_bytes, outputs)) + sum(map(moved_bytes, inputs[1:])),
        sum(map(moved_bytes, outputs)),
    )


def _writes_a_part(name, arguments, inputs, outputs):
    """A scatter: of its target as much as it gets."""
    given = sum(map(moved_bytes, inputs[1:]))
    yield Kernel(name, given, moved_bytes(inputs[-1]))


def _multi_tensor(name, arguments, inputs, outputs):
    """A few launches for lists of tensors."""
    lists = [values for values in arguments if isinstance(values, (list, tuple)) and len(values)]
    depth = min(5, len(lists) + (0 if name.endswith('_') else 1))
    count = -(-len(lists[0]) // TENSORS_IN_A_LAUNCH[depth])
    written = outputs or list(tensors_in(lists[:4] if name.startswith('_fused') else lists[0]))
    kernel = plain(name, inputs, written)
    for _ in range(count):
        yield Kernel(name, kernel.bytes_read // count, kernel.bytes_written // count)


def _exact(tensor) -> bool:
    return tensor.element_size() >= 4


SPECIAL = {
    **dict.fromkeys(('mm', 'addmm', 'bmm', 'baddbmm'), _matrix),
    **dict.fromkeys(('index', 'index_select', 'gather'), _reads_what_it_takes),
    **dict.fromkeys(('index_put', 'index_put_', 'slice_scatter', 'select_scatter'),
                    _writes_a_part),
    'convolution': _convolution, 'convolution_backward': _convolution_backward,
    'native_layer_norm': _layer_norm, 'native_layer_norm_backward': _layer_norm_backward,
    'scaled_dot_product_attention': _attention, 'constant_pad_nd': _pad,
}


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
