# SPDX-License-Identifier: Apache-2.0
"""CUDA backend: raw bytes up, everything on the device, one 8-bit image back.

The same picture as CpuBackend gives, to a gray level: luminance and chroma as in
core/imaging/color.py, gain control as in core/imaging/thermal.py, the warp of
core/alignment/geometry.py. All of it is plain torch, so that it runs, and is tested, on a CPU too;
there the CPU backend is the faster one.
"""

from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch

from ..core.alignment.warp import Mapping
from ..core.frames import RGB, Pair
from ..core.imaging.color import CHROMA, output_encoding, paint, require_8_bit
from ..core.imaging.thermal import SMALLEST_SPAN, STRETCHED, Levels
from ..models.kernels import triton
from ..models.scan import ScanError
from . import NetworkFailure
from .graphs import Download, Replay, Uploads
from .image_tensors import (
    ScaledFusion,
    TensorWarp,
    join_luma,
    split_luma,
    to_gray,
    trusted_chroma,
)
from .prepare import UNIT, Call, Painter, PreparedPair, StageTimer
from .working_size import steps_from

# Plans that are ready at a time: every working size of one camera. Each holds device memory.
READY = len(steps_from(1.0))


@dataclass(frozen=True)
class Plan:
    """All that decides which operations a pair needs. Shapes are those of the arrays.

    mapped: by tables, whose values are no part of it; averaged: see core.alignment.warp.Warp;
    chroma: the value of output.color if that is one of core.imaging.color.CHROMA, else empty: the
    result is gray.
    """

    rgb_shape: tuple[int, ...]
    rgb_encoding: str
    thermal_shape: tuple[int, ...]
    thermal_encoding: str
    scale: float
    grid: str = RGB
    mapped: bool = False
    averaged: tuple[int, int] | None = None
    chroma: str = 'keep_chroma'

    @classmethod
    def of(cls, pair: Pair, scale: float, *, mapping: Mapping,
           color: str = 'keep_chroma') -> 'Plan':
        """Return the plan of pair.

        Raises FrameError (not_8_bit) for encodings that cannot be fused.
        """
        require_8_bit(pair.rgb.encoding)
        if pair.thermal.encoding not in STRETCHED:
            require_8_bit(pair.thermal.encoding)
        warp = mapping.thermal if mapping.grid == RGB else mapping.rgb
        return cls(pair.rgb.pixels.shape, pair.rgb.encoding, pair.thermal.pixels.shape,
                   pair.thermal.encoding, scale, mapping.grid, warp.tables is not None,
                   warp.averaged,
                   color if color in CHROMA else '')

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the grid and of the result."""
        height, width = (self.rgb_shape if self.grid == RGB else self.thermal_shape)[:2]
        return height, width

    @property
    def values(self) -> int:
        """How many bytes the result has."""
        return self.size[0] * self.size[1] * (3 if self.chroma else 1)


class CudaBackend:
    """Fuses pairs on engine.device with engine.fuse_tensors. For one thread at a time.

    `problems` tells which plans could not be captured as a CUDA graph, and why.
    """

    def __init__(self, engine):
        self._problems: list[str] = []
        # Of no bound method: that would be a cycle, and what a backend keeps on the device has to
        # go with it at once.
        self._prepared = lru_cache(maxsize=READY)(partial(_prepare, engine, self._problems))

    @property
    def problems(self) -> tuple[str, ...]:
        """One sentence for each plan without a graph."""
        return tuple(self._problems)

    def fuse(self, prepared: PreparedPair, *, scale: float,
             call: Call | None = None) -> Painter:
        """Fuse a pair as CpuBackend does, with the stages upload, network and color.

        The first pair of a plan takes seconds; another mapping of the same kind, gray range or
        palette take none.

        Raises:
            FrameError: a frame is not usable.
            NetworkFailure: the device raised (out of memory, say), or the network's output is not
                finite.
        """
        plan = Plan.of(prepared.pair, scale, mapping=prepared.mapping,
                       color=prepared.settings.output.color)
        work = partial(self._run, plan, prepared)
        packed, timings_ms = call(work) if call else work()
        prepared.timer.add(timings_ms)
        if plan.chroma:
            colored = packed[:-1].reshape(*plan.size, 3).copy()  # the next pair overwrites it
            return lambda: (colored, output_encoding(plan.rgb_encoding))
        return partial(paint, packed[:-1].reshape(plan.size).copy(), None,
                       encoding=plan.rgb_encoding, color=prepared.settings.output.color)

    @torch.inference_mode()
    def _run(self, plan: 'Plan', prepared: PreparedPair) -> tuple[np.ndarray, dict[str, float]]:
        """Return the packed values of the fused image, and the milliseconds by stage."""
        timer = StageTimer()
        try:
            ready = self._prepared(plan)
            ready.program.load(prepared.mapping)
            ready.uploads.write(0, prepared.pair.rgb.pixels)
            ready.uploads.write(1, prepared.pair.thermal.pixels)
            ready.uploads.write(2, _stretch(prepared.levels))
            inputs = ready.uploads.take()
            timer.lap('upload')
            # What the host has to know of warm objects too, it finds while the device works.
            packed = ready.download(ready.replay(*inputs), lambda: prepared.warm_view)
            timer.lap('network')
        # out of memory, or an image too large for the scan
        except (RuntimeError, ScanError) as error:
            raise NetworkFailure(f'the network raised {type(error).__name__}: {error}') from error
        if not packed[-1]:
            raise NetworkFailure('the network returned values that are not finite')
        return packed, timer.timings_ms


@dataclass(frozen=True)
class ReadyPlan:
    """What one plan keeps on the device."""

    uploads: Uploads
    program: 'Program'
    replay: Replay
    download: Download


class Program:
    """The operations of one plan.

    Holds its tables on device, and waits for nothing but their upload.
    """

    def __init__(self, plan: Plan, *, fuse, device: str):
        self._plan, self._fuse, self._device = plan, fuse, device
        self._scaled = ScaledFusion(plan.size, scale=plan.scale,
                                    device=device) if plan.scale < 1 else None
        rgb_size, thermal_size = ((shape[1], shape[0])
                                  for shape in (plan.rgb_shape, plan.thermal_shape))
        about: dict[str, Any] = {'mapped': plan.mapped, 'averaged': plan.averaged,
                                 'device': device}
        if plan.grid == RGB:
            self._warp = TensorWarp(thermal_size, rgb_size, **about)
        else:
            self._warp = TensorWarp(rgb_size, thermal_size, **about)
        self._seen = torch.ones(plan.size, dtype=torch.bool,
                                device=device) if plan.mapped else None
        self._loaded: Mapping | None = None
        self._kernels = _kernels(plan, device)

    def load(self, mapping: Mapping) -> None:
        """Use the tables of mapping, which is one of the plan's kind, for the next call."""
        if self._seen is None or mapping is self._loaded:
            return
        self._warp.load(mapping.thermal if self._plan.grid == RGB else mapping.rgb)
        self._seen.copy_(torch.from_numpy(mapping.seen.copy()))
        self._loaded = mapping

    @torch.inference_mode()
    def __call__(self, rgb: torch.Tensor, thermal: torch.Tensor,
                 stretch: torch.Tensor) -> torch.Tensor:
        """Return the values of the fused image and a 1, or a 0 if they are not finite, as flat
        uint8.

        rgb: uint8 as in its frame; thermal: the same, mono16 as the bits of int16; stretch: see
        _stretch.
        """
        if self._kernels is None:
            return self.in_torch(rgb, thermal, stretch)
        ir, y = self._kernels.prepare(rgb, thermal, stretch, grid=self._warp.grid, seen=self._seen)
        return self._kernels.finish(self._fused(ir, y)[0, 0], rgb, seen=self._seen)

    @torch.inference_mode()
    def check_kernels(self) -> str | None:
        """Compare the kernels with plain torch on a random pair; leave them out if they are wrong.

        Returns:
            What is wrong, or None.
        """
        if self._kernels is None:
            return None
        inputs, fuse = _random_inputs(self._plan, self._device), self._fuse
        self._fuse = lambda ir, y: 0.7 * ir + 0.3 * y
        try:
            expected, found = self.in_torch(*inputs).int(), self(*inputs).int()
            right = ((found - expected).abs() <= 1).float().mean().item()
            wrong = None if right >= 0.99 else f'give {1 - right:.1%} wrong values'
        except Exception as error:  # compilers and drivers raise anything
            wrong = f'raised {type(error).__name__}: {error}'
        self._fuse = fuse
        if wrong is not None:
            self._kernels = None
            return (f'the kernels of the pixels around the network {wrong}, plain torch does it '
                    f'in some 130 launches')
        return None

    def in_torch(self, rgb: torch.Tensor, thermal: torch.Tensor,
                 stretch: torch.Tensor) -> torch.Tensor:
        """Return the same in plain torch, which is the reference of the kernels."""
        ir = to_gray(thermal, self._plan.thermal_encoding, stretch)
        if self._plan.grid == RGB:
            ir = self._warp(ir[None])[0]
        else:
            rgb = _channels_last(self._warp(_channels_first(rgb)))
        y, chroma = split_luma(rgb, self._plan.rgb_encoding)
        own = y if self._plan.grid == RGB else ir
        seen_ir, seen_y = (self._where_seen(image, own) * float(UNIT) for image in (ir, y))
        fused = self._fused(seen_ir[None, None], seen_y[None, None])[0, 0]
        finite = fused.isfinite().all()
        luma = self._where_seen((fused * 255).round(), own)
        image = self._colored(luma, y, chroma)
        return torch.cat((image.flatten(), finite.to(torch.uint8)[None]))

    def _fused(self, ir, y):
        return self._fuse(ir, y).float() if self._scaled is None else self._scaled(
            self._fuse, ir, y)

    def _where_seen(self, inside, outside):
        return inside if self._seen is None else torch.where(self._seen, inside, outside)

    def _colored(self, luma, y, chroma):
        luma = luma.clamp(0, 255)
        if not self._plan.chroma:
            return luma.to(torch.uint8)
        if chroma is not None and self._plan.grid != RGB and self._seen is not None:
            # Where nothing is seen the RGB image is black.
            y, chroma = self._where_seen(y, 0.0), tuple(self._where_seen(c, 128.0) for c in chroma)
        if chroma is not None and self._plan.chroma == 'keep_chroma':
            trusted = trusted_chroma(luma, y, chroma)
            chroma = tuple(self._where_seen(c, own) for c, own in zip(trusted, chroma))
        return join_luma(luma, chroma, self._plan.rgb_encoding)


def _prepare(engine, problems: list[str], plan: Plan) -> ReadyPlan:
    """Make a plan ready on the engine's device.

    A graph that could not be captured is added to problems.
    """
    device = engine.device
    thermal_type = {'mono16': 'uint16', '32FC1': 'float32'}.get(plan.thermal_encoding, 'uint8')
    uploads = Uploads([(plan.rgb_shape, 'uint8'), (plan.thermal_shape, thermal_type),
                       ((4,), 'float32')],
                      device=device)
    program = Program(plan, fuse=engine.fuse_tensors, device=device)
    if wrong := program.check_kernels():
        problems.append(wrong)
    replay = Replay(program, uploads.take())
    if replay.problem:
        problems.append(f'{plan.size[1]}x{plan.size[0]}: {replay.problem}')
    return ReadyPlan(uploads, program, replay, Download(plan.values + 1, device=device))


def _kernels(plan: Plan, device: str):
    """Return the Triton form of the pixels' path, or None where it cannot run or does not know the
    plan."""
    if triton.unavailable() or triton.refuses(torch.empty(0, device=device), states=1):
        return None
    from .triton_pixels import PixelKernels, known
    return PixelKernels(plan) if known(plan) else None


def _random_inputs(plan: Plan, device: str) -> list[torch.Tensor]:
    """Random bytes of both images, and levels that cut some of them off."""
    random = torch.Generator(device).manual_seed(0)
    rgb = torch.randint(0, 256, plan.rgb_shape, generator=random, device=device, dtype=torch.uint8)
    if plan.thermal_encoding == '32FC1':
        thermal = torch.rand(plan.thermal_shape, generator=random, device=device)
        return [rgb, thermal, torch.tensor((0.25, 0.75, 0.5, 1.0), device=device)]
    kind = torch.int16 if plan.thermal_encoding == 'mono16' else torch.uint8
    limits = torch.iinfo(kind)
    thermal = torch.randint(limits.min, limits.max, plan.thermal_shape, generator=random,
                            device=device, dtype=kind)
    return [rgb, thermal, torch.tensor((16384.0, 49152.0, 32768.0, 1.0), device=device)]


def _channels_first(pixels):
    """H x W [x C] uint8 -> C x H x W float32."""
    return pixels.float()[None] if pixels.ndim == 2 else pixels.float().permute(2, 0, 1)


def _channels_last(channels):
    return channels[0] if channels.shape[0] == 1 else channels.permute(1, 2, 0)


def _stretch(levels: Levels) -> np.ndarray:
    """Return low, high, their span, and 1 for black-hot or else 0, as float32."""
    span = max(levels.high - levels.low, SMALLEST_SPAN)
    return np.array((levels.low, levels.high, span, levels.black_hot), np.float32)
