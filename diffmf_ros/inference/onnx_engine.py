# SPDX-License-Identifier: Apache-2.0
"""An exported network in onnxruntime, as a function of two images of any size. Needs no torch."""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..core.file_kinds import explained, looked_in
from ..core.settings import Settings
from ..models import SizeRule
from . import EngineError, NetworkFailure
from .weights_header import number_of, sides_of

FORMAT = 'diffmf_ros onnx 2'  # 1: only networks whose sides are multiples
KEYS = ('format', 'model', 'preset', 'sides', 'iterations', 'seed', 'weights_sha256', 'size',
        'sha256')
ANY_SIZE = 'any'
UNSEALED = '0' * 64
# The metadata entry as it lies in the file: key 'sha256', then 64 hexadecimal digits, each behind
# its length.
SEAL = re.compile(rb'\x0a\x06sha256\x12\x40([0-9a-f]{64})')


@dataclass(frozen=True)
class OnnxHeader:
    """What the metadata of a file say: an image is extended to sides that fit.

    size is (width, height) of the only images that the network takes, or None for any.
    """

    model: str
    preset: str
    sides: SizeRule
    size: tuple[int, int] | None


def seal(data: bytes) -> bytes:
    """Return a file whose metadata say sha256 = UNSEALED with the SHA-256 of data there instead.
    """
    digest = hashlib.sha256(data).hexdigest().encode()
    return SEAL.sub(lambda entry: entry[0][:-64] + digest, data)


def read_sealed(path: Path) -> bytes:
    """Return the bytes of an exported network.

    Nothing of the file is interpreted before its checksum fits.

    Raises EngineError: no such file, not written by `diffmf export`, or changed since.
    """
    if not path.is_file():
        raise EngineError(f'{path} does not exist{looked_in(path)}; `weights` has to name a '
                          'file of `diffmf export` for engine onnx')
    data = path.read_bytes()
    seals = SEAL.findall(data)
    if len(seals) != 1:
        raise EngineError(explained(f'{path} was not written by `diffmf export --onnx`, or only a '
                                    f'part of it is '
                                    'there: it has no checksum', path) + '; export it again')
    blank = SEAL.sub(lambda entry: entry[0][:-64] + UNSEALED.encode(), data)
    if hashlib.sha256(blank).hexdigest().encode() != seals[0]:
        raise EngineError(f'{path} is damaged: its checksum does not match its content; get it '
                          f'again')
    return data


def read_header(path: Path, metadata: dict[str, str]) -> OnnxHeader:
    """Return what metadata say. Raises EngineError for another format or missing entries."""
    if metadata.get('format') != FORMAT or any(key not in metadata for key in KEYS):
        raise EngineError(f'{path} does not say what it is for: expected the metadata '
                          f'{", ".join(KEYS)} with format {FORMAT!r}, got format '
                          f'{metadata.get("format")!r} and '
                          f'{sorted(metadata)}; export it again')
    width, _, height = metadata['size'].partition('x')
    try:
        iterations, sides = number_of(metadata['iterations']), sides_of(metadata['sides'])
        size = None if metadata['size'] == ANY_SIZE else (int(width), int(height))
    except ValueError as error:
        raise EngineError(f'{path}: expected whole numbers in the metadata iterations, sides and '
                          f'size: {error}; export '
                          'it again') from error
    if iterations is not None and iterations < 1:
        raise EngineError(f'{path} holds an untrained network (0 iterations); it would fuse noise')
    return OnnxHeader(metadata['model'], metadata['preset'], sides, size)


PROVIDERS = {'cpu': 'CPUExecutionProvider', 'cuda': 'CUDAExecutionProvider'}


class OnnxEngine:
    """Fuse (infrared, visible luminance) with the exported network that settings.weights names.

    Raises EngineError at construction: onnxruntime missing, a file that is missing, damaged or for
    another network, or a device, precision or scan backend that onnxruntime cannot give.
    """

    def __init__(self, settings: Settings):
        _refuse(settings)
        ort = _onnxruntime()
        device = _device(settings.device, ort)
        path = Path(settings.weights)
        data = read_sealed(path)
        options = ort.SessionOptions()
        options.intra_op_num_threads = settings.threads  # 0: one per core
        # Threads that wait do not spin: a step of a scan is short, and on a busy machine spinning
        # doubled the time.
        options.add_session_config_entry('session.intra_op.allow_spinning', '0')
        # A CUDA provider always wants the CPU's behind it, for the shapes.
        providers = [PROVIDERS[device], PROVIDERS['cpu']] if device == 'cuda' else [
            PROVIDERS['cpu']]
        try:
            self._session = ort.InferenceSession(data, options, providers=providers)
        except Exception as error:  # the bindings derive their exceptions from Exception itself
            raise EngineError(f'onnxruntime {ort.__version__} cannot load {path}: '
                              f'{error}') from error
        self._header = read_header(path, self._session.get_modelmeta().custom_metadata_map)
        _check_network(path, self._header, settings)
        self.device, self.problems = self._what_it_got(device, settings)

    @property
    def description(self) -> str:
        """Runtime and device, such as 'onnxruntime cpu'."""
        return f'onnxruntime {self.device}'

    def __call__(self, ir: np.ndarray, vi_y: np.ndarray) -> np.ndarray:
        """Fuse two H x W float32 images in [0, 1] of any size; returns the same, clamped.

        Raises NetworkFailure when onnxruntime raises, returns NaN, infinity or another shape, or
        when the network was exported for another size.
        """
        height, width = ir.shape
        sides = self._header.sides
        images = [_padded(image, sides) for image in (ir, vi_y)]
        padded_size = images[0].shape[::-1]
        if self._header.size not in (None, padded_size):
            raise NetworkFailure(f'the network was exported for {_text(self._header.size)} pixels '
                                 f'and cannot fuse {width}x{height}; run `diffmf export` with '
                                 f'--size '
                                 f'{_text(padded_size)}, or without '
                                 '--size for every size')
        try:
            fused, = self._session.run(None, {name: image[None, None] for name,
                                              image in zip(('ir', 'vi_y'), images)})
        except Exception as error:  # as at construction
            raise NetworkFailure(f'onnxruntime raised {type(error).__name__}: {error}') from error
        if fused.shape != (1, 1, *images[0].shape):
            raise NetworkFailure(f'the network returned the shape {fused.shape}, expected '
                                 f'{(1, 1, *images[0].shape)}')
        fused = fused[0, 0][sides.crop(height, width)]
        if not np.isfinite(fused).all():
            raise NetworkFailure('the network returned values that are not finite')
        return fused.clip(0, 1)

    def _what_it_got(self, device: str, settings: Settings) -> tuple[str, tuple[str, ...]]:
        """Return the device that the session runs on, and what is wrong with that."""
        if PROVIDERS[device] in self._session.get_providers():
            return device, ()
        if settings.device == 'cuda':
            raise EngineError('device cuda was asked for, but onnxruntime could not start its '
                              'CUDA provider (its log says why, usually a missing CUDA or cuDNN '
                              'library); use device '
                              'auto or cpu')
        return 'cpu', ('onnxruntime has a CUDA provider but could not start it: the network runs '
                       'on the CPU',)


def _onnxruntime():
    try:
        import onnxruntime
    except Exception as error:  # a wheel for other libraries fails in other ways than ImportError
        raise EngineError(f'engine onnx needs onnxruntime, which cannot be imported ({error}); '
                          f'pip install onnxruntime '
                          "(on a Jetson NVIDIA's onnxruntime-gpu)") from error
    return onnxruntime


def _refuse(settings: Settings) -> None:
    """Raise EngineError for settings that an exported network cannot follow."""
    if not settings.weights:
        raise EngineError('engine onnx has no shipped networks: write one with `diffmf export '
                          '--onnx FILE` where torch is installed and set `weights` to that file')
    if settings.precision not in ('auto', 'float32'):
        raise EngineError(f'exported networks run in float32, not {settings.precision}; use '
                          f'precision auto or float32, '
                          'or engine torch')
    if settings.scan_backend != 'auto':
        raise EngineError(f'scan_backend {settings.scan_backend} belongs to engine torch, an '
                          f'exported network brings '
                          'its own scan; use scan_backend auto')


def _device(device: str, ort) -> str:
    """Return 'cpu' or 'cuda' for the device setting.

    Raises EngineError when onnxruntime has no CUDA.
    """
    there = PROVIDERS['cuda'] in ort.get_available_providers()
    if device == 'cuda' and not there:
        raise EngineError(f'device cuda was asked for, but this onnxruntime {ort.__version__} has '
                          f'no CUDA provider; '
                          'install onnxruntime-gpu, or use device auto or cpu')
    return 'cuda' if there and device != 'cpu' else 'cpu'


def _check_network(path: Path, header: OnnxHeader, settings: Settings) -> None:
    if (header.model, header.preset) != (settings.model, settings.network_preset):
        raise EngineError(f'{path} is for {header.model} {header.preset}, but {settings.model} '
                          f'{settings.network_preset} was asked for; set model and preset to '
                          f'match')


def _padded(image: np.ndarray, sides: SizeRule) -> np.ndarray:
    """H x W extended by reflection to sides that fit."""
    return np.pad(image, [sides.padding(side) for side in image.shape], mode='reflect')


def _text(size: tuple[int, int]) -> str:
    return f'{size[0]}x{size[1]}'
