# SPDX-License-Identifier: Apache-2.0
"""The Python front: fusing NumPy arrays, one pair or a stream of them."""

import os
import warnings
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from .core.frames import (
    RGB,
    THERMAL,
    DiffmfError,
    Frame,
    FrameError,
    FusionResult,
    Mode,
    Pair,
    no_temperature,
)
from .core.parameter_spec import meant
from .core.settings import DEFAULTS, LIVE_ONLY, Settings, SettingsError, iter_specs, with_changes
from .inference.pipeline import FusionPipeline

__all__ = ['DiffmfError', 'Fuser', 'FusionResult', 'FusionWarning', 'InputError', 'Mode', 'fuse']
ORDERS = ('rgb', 'bgr')
# Settings that change nothing for arrays.
_NODE_ONLY = (*LIVE_ONLY, 'sync.', 'alignment.from_tf')
_ALIASES = {'alignment': 'alignment.file'}
_one_at_a_time = Lock()


class InputError(DiffmfError, ValueError):
    """An array is not what is expected: wrong type, shape or values."""


class FusionWarning(UserWarning):
    """What a user should know about a fused image, such as a camera that sees nothing."""


def fuse(rgb: np.ndarray, thermal: np.ndarray, *, order: str = 'rgb',
         **settings: Any) -> np.ndarray:
    """Fuse one RGB and one thermal image.

    The network of the last settings is kept, so that only the first call takes the time to load
    it. Calls of several threads take turns.

    Args:
        rgb: H x W x 3 or H x W x 4 (alpha is dropped) or H x W, uint8.
        thermal: H x W of any size, uint8, uint16 (raw counts) or float32; warm is bright.
        order: order of the color channels of rgb, and of the result: rgb, or bgr as OpenCV reads
            them.
        **settings: settings as in docs/parameters.md, with two underscores for a dot:
            preset='light', device='cuda', alignment='align.yaml', thermal__polarity='black_hot'.

    Returns:
        The fused image on the grid of rgb, cropped and turned as asked for, or of thermal with
        alignment__output_grid='thermal': H x W x 3 uint8, or H x W with output__color='gray'.

    Raises:
        InputError: an array is not as above.
        DiffmfError: a setting is wrong, or weights, alignment or device cannot be used, or fusing
            failed.

    Warns:
        FusionWarning: a camera sees nothing, so that the image of the other one is returned; or
            another thing that a viewer of the image should know.
    """
    chosen = _settings_of(settings)
    with _one_at_a_time:
        result = _kept_fuser(chosen, _times_of(chosen)).fuse(rgb, thermal, order=order)
    _warn(result)
    return result.pixels


class Fuser:
    """Fuses a stream of pairs with one network; for one thread at a time. It is a context manager.

    Pairs with stamps are judged as a stream: the gray levels of 16-bit thermal follow the scene
    smoothly. Pairs without are fused each by itself.
    """

    def __init__(self, **settings: Any):
        """Load the network.

        Args:
            **settings: as those of `fuse`.

        Raises:
            DiffmfError: a setting is wrong, or weights, alignment or device cannot be used.
        """
        self._pipeline: FusionPipeline | None = FusionPipeline(_settings_of(settings))

    @property
    def description(self) -> str:
        """What fuses and where, such as 'diffmf nano on cpu float32, scan cpu'."""
        pipeline = self._open()
        return f'{pipeline.description} on {pipeline.device}'

    def __call__(self, rgb: np.ndarray, thermal: np.ndarray, *, order: str = 'rgb',
                 stamp_ns: int = 0) -> np.ndarray:
        """Return the fused image of a pair, and warn, as `fuse` does."""
        result = self.fuse(rgb, thermal, order=order, stamp_ns=stamp_ns)
        _warn(result)
        return result.pixels

    def fuse(self, rgb: np.ndarray, thermal: np.ndarray, *, order: str = 'rgb',
             stamp_ns: int = 0, keep_inputs: bool = False) -> FusionResult:
        """Fuse a pair and return how it was done with it: pixels, mode, warnings, timings_ms.

        Args:
            rgb: as that of the function `fuse`.
            thermal: as that of the function `fuse`.
            order: as that of the function `fuse`.
            stamp_ns: time of the pair in nanoseconds, rising from pair to pair, below 2**63; 0
                for a pair by itself.
            keep_inputs: whether images and temperature() of the result are there, which keep both
                arrays in memory for as long as the result.

        Returns:
            Pixels, which share no memory with the arrays, mode, warnings and timings_ms.

        Raises:
            InputError: an array or the stamp is not what is expected.
            DiffmfError: fusing failed, or close() was called before.
        """
        pipeline, stamp_ns = self._open(), _checked_stamp(stamp_ns)
        if order not in ORDERS:
            raise InputError(f"order must be one of {', '.join(ORDERS)}; got {order!r}")
        pair = Pair(_rgb_frame(rgb, order, stamp_ns), _thermal_frame(thermal, stamp_ns),
                    offset_ns=0)
        try:
            result = pipeline.fuse(pair)
        except FrameError as error:  # such as thermal without a single valid pixel
            raise InputError(str(error)) from error
        if result.mode in (Mode.RGB_ONLY, Mode.THERMAL_ONLY) and not any(
                issue.blind for issue in result.issues):
            raise DiffmfError(f'the pair could not be fused: '
                              f'{"; ".join(result.warnings) or "no reason was given"}')
        if any(np.may_share_memory(result.pixels, image) for image in (rgb, thermal)):
            # One camera alone is passed on as it came.
            result = replace(result, pixels=result.pixels.copy())
        return result if keep_inputs else replace(result, images=None, temperature=no_temperature)

    def close(self) -> None:
        """Free the network; the fuser is not to be used again."""
        if self._pipeline is not None:
            self._pipeline.close()
        self._pipeline = None

    def _open(self) -> FusionPipeline:
        if self._pipeline is None:
            raise DiffmfError('this Fuser was closed, and its network with it: make a new one')
        return self._pipeline

    def __enter__(self) -> 'Fuser':
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _settings_of(keywords: dict[str, Any]) -> Settings:
    """Return the default settings with keywords changed. Raises SettingsError."""
    known = {item.name.replace('.', '__'): item.name for item in iter_specs(DEFAULTS)
             if not item.name.startswith(_NODE_ONLY)} | _ALIASES
    wrong = [_unknown(keyword, known) for keyword in keywords if keyword not in known]
    if wrong:
        raise SettingsError('; '.join(wrong))
    return with_changes(DEFAULTS, {known[keyword]: _plain(value)
                                   for keyword, value in keywords.items()})


def _plain(value: Any) -> Any:
    """Return a path as text, and a number of NumPy as one of Python."""
    return value.item() if isinstance(value, np.generic) else (
        str(value) if isinstance(value, Path) else value)


def _unknown(keyword: str, known: dict[str, str]) -> str:
    """Return the error text for a keyword that is not a setting of arrays, and the remedy."""
    if (written := keyword.replace('.', '__')) in known:
        return (f'unknown setting {keyword!r}; here two underscores stand for a dot: use '
                f'{written}')
    name = keyword.replace('__', '.')
    if name in {item.name for item in iter_specs(DEFAULTS)}:
        return (f'{keyword} is a setting of the live node alone and changes nothing for arrays: '
                'leave it out')
    hint = meant(name, known.values()).replace('.', '__')
    return (f'unknown setting {keyword!r}{hint or ";"} docs/parameters.md lists the settings; '
            'here two underscores stand for a dot')


@lru_cache(maxsize=1)
def _kept_fuser(settings: Settings, times: tuple[int | None, ...]) -> Fuser:
    changes = {item.name.replace('.', '__'): item.value for item in iter_specs(settings)
               if not item.name.startswith(_NODE_ONLY)}
    return Fuser(**changes)


def _times_of(settings: Settings) -> tuple[int | None, ...]:
    """Return when the files that settings name were written, so that a new file is read anew."""
    paths = (settings.weights_file, settings.alignment.file)
    return tuple(os.stat(path).st_mtime_ns if path and os.path.exists(path) else None
                 for path in paths)


def _warn(result: FusionResult) -> None:
    for text in result.warnings:
        warnings.warn(text, FusionWarning, stacklevel=3)


def _rgb_frame(pixels: np.ndarray, order: str, stamp_ns: int) -> Frame:
    """Return rgb as a frame. Raises InputError."""
    expected = 'rgb: expected a uint8 array of shape H x W x 3 (or H x W x 4, or H x W)'
    got = _checked(pixels, expected)
    if pixels.dtype != np.uint8:
        hint = ('for values of 0 to 1 use (255 * rgb).round().astype(numpy.uint8)'
                if pixels.dtype.kind == 'f' else 'scale the values to 0 to 255 and use '
                '.astype(numpy.uint8)')
        raise InputError(f'{expected}, {got}; {hint}')
    if pixels.ndim == 2:
        return _frame(RGB, pixels, 'mono8', stamp_ns)
    if pixels.ndim == 3 and pixels.shape[2] in (3, 4):
        return _frame(RGB, pixels, order + ('a8' if pixels.shape[2] == 4 else '8'), stamp_ns)
    raise InputError(f'{expected}, {got}{_shape_hint(pixels, "rgb")}')


def _thermal_frame(pixels: np.ndarray, stamp_ns: int) -> Frame:
    """Return thermal as a frame. Raises InputError."""
    expected = 'thermal: expected a uint8, uint16 or float32 array of shape H x W'
    got = _checked(pixels, expected)
    if pixels.ndim != 2:
        hint = _shape_hint(pixels, 'thermal')
        if pixels.ndim == 3 and pixels.shape[2] in (3, 4):
            hint = ('; of a gray picture use thermal[:, :, 0]; false colors are no temperatures: '
                    'store the raw values or a gray picture')
        raise InputError(f'{expected}, {got}{hint}')
    native = pixels.dtype.newbyteorder('=')
    encoding = {'uint8': 'mono8', 'uint16': 'mono16', 'float32': '32FC1'}.get(native.name)
    if encoding is None:
        raise InputError(f'{expected}, {got}; use thermal.astype(numpy.float32)')
    return _frame(THERMAL, pixels.astype(native, copy=False), encoding, stamp_ns)


def _frame(stream: str, pixels: np.ndarray, encoding: str, stamp_ns: int) -> Frame:
    return Frame(stream, stamp_ns, '', np.ascontiguousarray(np.asarray(pixels)), encoding)


def _checked_stamp(stamp_ns: Any) -> int:
    """Return a stamp as an int. Raises InputError."""
    whole = isinstance(stamp_ns, (int, np.integer)) and not isinstance(
        stamp_ns, (bool, np.timedelta64))
    if not whole or not 0 <= stamp_ns < 2 ** 63:
        raise InputError('stamp_ns: expected whole nanoseconds from 0 to 2**63 - 1, got '
                         f'{stamp_ns!r}; of seconds use round(1e9 * seconds)')
    return int(stamp_ns)


def _checked(pixels: Any, expected: str) -> str:
    """Return what pixels is, in words. Raises InputError unless it is an array with content."""
    if not isinstance(pixels, np.ndarray):
        kind = type(pixels).__name__
        cure = ('could its file not be read?' if pixels is None else
                'read the file first, as with cv2.imread' if isinstance(pixels, (str, os.PathLike))
                else 'use numpy.asarray(image), and of a torch tensor tensor.cpu().numpy()')
        raise InputError(f'{expected}, got {kind}; {cure}')
    got = f'got {pixels.dtype} of shape {pixels.shape}'
    if np.ma.is_masked(pixels):
        empty = 'numpy.nan' if pixels.dtype.kind == 'f' else 'a value'
        raise InputError(f'{expected}, {got} with a mask, which would be lost: use '
                         f'array.filled({empty})')
    if not pixels.size:
        raise InputError(f'{expected}, {got}: it is empty')
    return got


def _shape_hint(pixels: np.ndarray, name: str) -> str:
    """Return what to do with an array of a wrong shape, or nothing."""
    if pixels.ndim == 4:
        return '; one pair at a time'
    if pixels.ndim == 3 and pixels.shape[0] in (1, 3, 4) and pixels.shape[2] not in (3, 4):
        return f'; channels come last: use numpy.moveaxis({name}, 0, -1)' if pixels.shape[
            0] > 1 else f'; use {name}[0]'
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        return f'; use {name}[:, :, 0]'
    return ''
