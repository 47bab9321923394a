# SPDX-License-Identifier: Apache-2.0
"""A pair fused on a device: raw bytes up, everything there, one 8-bit image back.

The same picture as host_path.py gives, to a grey level: luminance and chroma as in core/color.py, gain
control as in core/thermal.py, the warp of core/geometry.py. All of it is plain torch, so that it runs, and
is tested, on a CPU too; there the host path is the faster one.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch.nn.functional import grid_sample, interpolate

from ..core.color import output_encoding, require_8_bit
from ..core.frames import Pair
from ..core.geometry import Alignment, shrinks
from ..core.pacing import steps_from
from ..core.settings import ThermalSettings
from ..core.thermal import SMALLEST_SPAN, STRETCHED, levels_of
from ..models.scan import ScanError
from .errors import NetworkFailure
from .graphs import Download, Replay, Uploads
from .scaled_tensors import AreaResize, ScaledFusion

# Plans that are ready at a time: every working size of one camera. Each holds device memory.
READY = len(steps_from(1.0))


@dataclass(frozen=True)
class Plan:
    """All that decides which operations a pair needs. Shapes are those of the arrays."""

    rgb_shape: tuple[int, ...]
    rgb_encoding: str
    thermal_shape: tuple[int, ...]
    thermal_encoding: str
    scale: float

    @classmethod
    def of(cls, pair: Pair, scale: float) -> 'Plan':
        """Return the plan of pair. Raises FrameError (not_8_bit) for encodings that cannot be fused."""
        require_8_bit(pair.rgb.encoding)
        if pair.thermal.encoding not in STRETCHED:
            require_8_bit(pair.thermal.encoding)
        return cls(pair.rgb.pixels.shape, pair.rgb.encoding, pair.thermal.pixels.shape, pair.thermal.encoding, scale)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the RGB image and of the result."""
        return self.rgb_shape[:2]


class DevicePath:
    """Fuses pairs on engine.device with engine.fuse_tensors. For one thread at a time.

    `problems` tells which plans could not be captured as a CUDA graph, and why.
    """

    def __init__(self, engine, *, alignment: Alignment, thermal: ThermalSettings):
        self._engine, self._alignment, self._thermal = engine, alignment, thermal
        self._prepared = lru_cache(maxsize=READY)(self._prepare)
        self.problems: tuple[str, ...] = ()

    @torch.inference_mode()
    def __call__(self, pair: Pair, *, scale: float, stage) -> np.ndarray:
        """Return the fused image of pair as HostPath does, with the stages upload and network.

        Raises FrameError when a frame is not usable and NetworkFailure when the device raises (out of
        memory, say) or the network's output is not finite. The first pair of a plan takes seconds.
        """
        plan = Plan.of(pair, scale)
        try:
            with stage('upload'):
                prepared = self._prepared(plan)
                prepared.uploads.write(0, pair.rgb.pixels)
                prepared.uploads.write(1, pair.thermal.pixels)
                prepared.uploads.write(2, self._stretch(pair))
                inputs = prepared.uploads.take()
            with stage('network'):
                packed = prepared.download(prepared.replay(*inputs))
        except (RuntimeError, ScanError) as error:  # out of memory, or an image too large for the scan
            raise NetworkFailure(f'the network raised {type(error).__name__}: {error}') from error
        if not packed[-1]:
            raise NetworkFailure('the network returned values that are not finite')
        return packed[:-1].reshape(*plan.size, 3).copy()

    def _stretch(self, pair: Pair) -> np.ndarray:
        """low, high and span of the gain control, float32; unused for 8-bit thermal."""
        if pair.thermal.encoding not in STRETCHED:
            return np.zeros(3, np.float32)
        levels = levels_of(pair.thermal.pixels, pair.thermal.encoding, self._thermal)
        return np.array((levels.low, levels.high, max(levels.high - levels.low, SMALLEST_SPAN)), np.float32)

    def _prepare(self, plan: Plan) -> 'Prepared':
        device = self._engine.device
        thermal_type = {'mono16': 'uint16', '32FC1': 'float32'}.get(plan.thermal_encoding, 'uint8')
        uploads = Uploads([(plan.rgb_shape, 'uint8'), (plan.thermal_shape, thermal_type), ((3,), 'float32')],
                          device=device)
        replay = Replay(Program(plan, fuse=self._engine.fuse_tensors, alignment=self._alignment, device=device),
                        uploads.take())
        if replay.problem:
            self.problems += (f'{plan.size[1]}x{plan.size[0]}: {replay.problem}',)
        return Prepared(uploads, replay, Download(plan.size[0] * plan.size[1] * 3 + 1, device=device))


@dataclass(frozen=True)
class Prepared:
    """What one plan keeps on the device."""

    uploads: Uploads
    replay: Replay
    download: Download


class Program:
    """The operations of one plan. Holds its tables on device, and waits for nothing."""

    def __init__(self, plan: Plan, *, fuse, alignment: Alignment, device: str):
        self._plan, self._fuse = plan, fuse
        self._scaled = ScaledFusion(plan.size, scale=plan.scale, device=device) if plan.scale < 1 else None
        self._warp, self._seen = _warp(alignment, plan, device)

    @torch.inference_mode()
    def __call__(self, rgb: torch.Tensor, thermal: torch.Tensor, stretch: torch.Tensor) -> torch.Tensor:
        """Return the H * W * 3 values of the fused image and a 1, or a 0 if they are not finite, as flat uint8.

        rgb: uint8 as in its frame; thermal: the same, mono16 as the bits of int16; stretch: low, high, span.
        """
        y, chroma = split_luma(rgb, self._plan.rgb_encoding)
        ir = self._warp(to_gray(thermal, self._plan.thermal_encoding, stretch)).round()
        ir = self._where_seen(ir, y)
        fused = self._fused((ir / 255)[None, None], (y / 255)[None, None])[0, 0]
        finite = fused.isfinite().all()
        luma = self._where_seen((fused * 255).round(), y)
        image = join_luma(luma, chroma, self._plan.rgb_encoding)
        return torch.cat((image.flatten(), finite.to(torch.uint8)[None]))

    def _fused(self, ir, y):
        return self._fuse(ir, y).float() if self._scaled is None else self._scaled(self._fuse, ir, y)

    def _where_seen(self, inside, outside):
        return inside if self._seen is None else torch.where(self._seen, inside, outside)


def split_luma(pixels: torch.Tensor, encoding: str):
    """Return (y H x W, (cr, cb) or None for mono8), float32 of whole numbers 0..255, of a uint8 image."""
    if encoding == 'mono8':
        return pixels.float(), None
    channels = pixels.float().unbind(-1)[:3]
    r, g, b = reversed(channels) if encoding.startswith('bgr') else channels
    y = (0.299 * r + 0.587 * g + 0.114 * b).round()
    return y, tuple((gain * (c - y) + 128).round().clamp(0, 255) for gain, c in ((0.713, r), (0.564, b)))


def join_luma(y: torch.Tensor, chroma, encoding: str) -> torch.Tensor:
    """Return H x W x 3 uint8 in output_encoding(encoding) of what split_luma gives, y possibly replaced."""
    if chroma is None:
        return y.to(torch.uint8)[..., None].expand(-1, -1, 3)
    cr, cb = (c - 128 for c in chroma)
    rgb = y + 1.403 * cr, y - 0.714 * cr - 0.344 * cb, y + 1.773 * cb
    planes = rgb[::-1] if output_encoding(encoding) == 'bgr8' else rgb
    return torch.stack(planes, dim=-1).round().clamp(0, 255).to(torch.uint8)


def to_gray(pixels: torch.Tensor, encoding: str, stretch: torch.Tensor) -> torch.Tensor:
    """Return thermal as H x W float32 of whole numbers 0..255; NaN and -inf become 0, +inf 255."""
    if encoding not in STRETCHED:
        return split_luma(pixels, encoding)[0]
    low, high, span = stretch
    values = pixels if encoding == '32FC1' else (pixels.int() & 0xFFFF).float()
    # fmin and fmax, unlike clamp, replace NaN.
    return ((torch.fmin(torch.fmax(values, low), high) - low) / span * 255).round()


def _warp(alignment: Alignment, plan: Plan, device: str):
    """Return (function of H' x W' to H x W, bool mask on device or None where thermal sees everything)."""
    thermal_size, rgb_size = plan.thermal_shape[1::-1], plan.rgb_shape[1::-1]
    if alignment.rgb_from_thermal is None:
        if shrinks(thermal_size, rgb_size):
            return AreaResize(plan.thermal_shape[:2], plan.size, device=device), None
        return lambda gray: interpolate(gray[None, None], plan.size, mode='bilinear', align_corners=False)[0, 0], None
    x, y, mask = alignment.tables(thermal_size, rgb_size)
    # With align_corners=False -1 and 1 are the outer edges of the image, as -0.5 and width - 0.5 are in the tables.
    unit = np.stack(((2 * x + 1) / thermal_size[0] - 1, (2 * y + 1) / thermal_size[1] - 1), axis=-1)
    grid = torch.from_numpy(unit.astype(np.float32)).to(device)[None]
    seen = None if mask.all() else torch.from_numpy(mask.copy()).to(device)
    return lambda gray: grid_sample(gray[None, None], grid, padding_mode='border', align_corners=False)[0, 0], seen
