# SPDX-License-Identifier: Apache-2.0
"""What `diffmf export` writes around a network, and how a file is known to be whole. numpy and torch free."""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from ..core.file_kinds import explained
from ..models.input_size import SizeRule
from .errors import EngineError
from .header_text import number_of, sides_of

FORMAT = 'diffmf_ros onnx 2'  # 1: only networks whose sides are multiples
KEYS = ('format', 'model', 'preset', 'sides', 'iterations', 'seed', 'weights_sha256', 'size', 'sha256')
ANY_SIZE = 'any'
UNSEALED = '0' * 64
# The metadata entry as it lies in the file: key 'sha256', then 64 hexadecimal digits, each behind its length.
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
    """Return a file whose metadata say sha256 = UNSEALED with the SHA-256 of data there instead."""
    digest = hashlib.sha256(data).hexdigest().encode()
    return SEAL.sub(lambda entry: entry[0][:-64] + digest, data)


def read_sealed(path: Path) -> bytes:
    """Return the bytes of an exported network. Nothing of the file is interpreted before its checksum fits.

    Raises EngineError: no such file, not written by `diffmf export`, or changed since.
    """
    if not path.is_file():
        raise EngineError(f'{path} does not exist; `weights` has to name a file of `diffmf export` for engine onnx')
    data = path.read_bytes()
    seals = SEAL.findall(data)
    if len(seals) != 1:
        raise EngineError(explained(f'{path} was not written by `diffmf export --onnx`, or only a part of it is '
                                    'there: it has no checksum', path) + '; export it again')
    blank = SEAL.sub(lambda entry: entry[0][:-64] + UNSEALED.encode(), data)
    if hashlib.sha256(blank).hexdigest().encode() != seals[0]:
        raise EngineError(f'{path} is damaged: its checksum does not match its content; get it again')
    return data


def read_header(path: Path, metadata: dict[str, str]) -> OnnxHeader:
    """Return what metadata say. Raises EngineError for another format or missing entries."""
    if metadata.get('format') != FORMAT or any(key not in metadata for key in KEYS):
        raise EngineError(f'{path} does not say what it is for: expected the metadata {", ".join(KEYS)} with format '
                          f'{FORMAT!r}, got format {metadata.get("format")!r} and {sorted(metadata)}; export it again')
    iterations = number_of(metadata['iterations'])
    if iterations is not None and iterations < 1:
        raise EngineError(f'{path} holds an untrained network (0 iterations); it would fuse noise')
    width, _, height = metadata['size'].partition('x')
    size = None if metadata['size'] == ANY_SIZE else (int(width), int(height))
    return OnnxHeader(metadata['model'], metadata['preset'], sides_of(metadata['sides']), size)
