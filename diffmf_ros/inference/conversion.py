# SPDX-License-Identifier: Apache-2.0
"""The checkpoint of S4Fusion's authors as a weights file of this package.

Offline, and nothing of it is executed.
"""

import hashlib
import pickletools
import re
import warnings
import zipfile
import zlib
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import safetensors
import torch
from safetensors.torch import load

from .. import models
from ..core.file_kinds import CHECKPOINT, explained
from .weights import listed, save_weights, state_dict_mismatches
from .weights_header import WeightsError

MODEL, PRESET = 's4fusion', 'base'
PREFIX = 'vmunet.'  # of every name in the authors' file
PARALLEL = 'module.'  # of every name in what was saved from torch's DataParallel
PUBLISHED = 'ec101bb3e8cd84fab46e12266813687a61f2a82e'  # git blob id of the authors' model.pkl
# with weights_only an older one can still be made to run code: CVE-2025-32434, CVE-2026-24747
SAFE_TORCH = '2.10'
# magic number, version, byte order, what was saved, keys of the numbers that follow
LEGACY_PICKLES = 5
# Python 2's names, which torch.save writes
RENAMED = {'__builtin__': 'builtins', 'copy_reg': 'copyreg'}


@dataclass(frozen=True)
class Converted:
    """A weights file that was written, and the identity of what it was made of."""

    path: Path
    tensors: int
    numbers: int
    blob: str  # git's name for the content of the checkpoint, as `git hash-object` prints it

    @property
    def published(self) -> bool:
        """Whether the checkpoint is, byte for byte, the one that the authors published."""
        return self.blob == PUBLISHED


def convert(source: str | Path, out: str | Path, *, overwrite: bool = False) -> Converted:
    """Write the authors' checkpoint, source, as float32 weights of s4fusion base to out.

    source: what torch.save wrote, or a .safetensors file; the state dict itself or below the key
    'model', names with or without the prefix 'vmunet.'. Raises WeightsError when source is not
    read, wants more than tensors, or does not fit the network tensor for tensor, and when out is
    there already (without overwrite); OSError when it cannot be written.
    """
    source, out = Path(source), Path(out)
    if not out.parent.is_dir():
        raise WeightsError(f'there is no folder {out.parent} to write {out.name} to; make it '
                           f'first')
    if out.is_dir() or (out.exists() and not overwrite):
        raise WeightsError(f'{out} is there already; name another file or, unless it is a '
                           f'folder, use --overwrite')
    try:
        data = source.read_bytes()
    except OSError as error:
        raise WeightsError(f'cannot read {source}: {error.strerror}') from error
    state = load_safetensors(source,
                             data) if source.suffix == '.safetensors' else load_checkpoint(
                                 source, data)
    tensors = fitted(source, state)
    _write(out, tensors)
    return Converted(out, len(tensors), sum(tensor.numel() for tensor in tensors.values()),
                     blob_id(data))


def blob_id(data: bytes) -> str:
    """Return git's identity of the content of a file, in 40 hexadecimal digits."""
    sha = hashlib.sha1(f'blob {len(data)}\0'.encode(), usedforsecurity=False)
    sha.update(data)
    return sha.hexdigest()


def load_safetensors(source: Path, data: bytes) -> dict[str, torch.Tensor]:
    """Return the tensors of a safetensors file, data. Raises WeightsError when it is none."""
    try:
        return load(data)
    except safetensors.SafetensorError as error:
        message = explained(f'{source} is not a whole safetensors file ({error})', source)
        raise WeightsError(f'{message}; get it again') from error


def load_checkpoint(source: Path, data: bytes) -> dict[str, torch.Tensor]:
    """Return the state dict in data, the content of a file of torch.save, without executing
    anything of it.

    Raises WeightsError listing what the pickle would import beyond tensors, or saying what else
    was found.
    """
    if torch.__version__ < SAFE_TORCH:
        raise WeightsError(f'{source} was not opened: torch {torch.__version__} does not read '
                           f'pickles safely (CVE-2025-32434, CVE-2026-24747); install torch '
                           f'{SAFE_TORCH} or newer, on any computer')
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # the refusal below says it in words for users
            checkpoint = torch.load(BytesIO(data), map_location='cpu', weights_only=True)
    except Exception as error:  # a damaged or foreign file trips the reader in many ways
        raise _refusal(source, data, error) from error
    state = checkpoint.get('model', checkpoint) if isinstance(checkpoint, dict) else checkpoint
    if not isinstance(state, dict):
        raise WeightsError(f"{source} holds {_kind(state)}; expected a state dict, or a dict "
                           f"with one at 'model'")
    others = [f'{name!r} is {_kind(value)}' for name, value in state.items()
              if not (isinstance(name, str) and isinstance(value, torch.Tensor))]
    if others:
        raise WeightsError(f"{source} is not a state dict, nor a dict with one at 'model': "
                           f'expected tensors by name, but {listed(others, between=", ")}')
    return state


def fitted(source: Path, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return state, whose names all have the authors' prefix or none has, as contiguous float32 by
    our names.

    A further prefix of DataParallel before all names is taken away.

    Raises WeightsError naming the tensors that are missing, unexpected, of another shape, not
    of floating point or not finite.
    """
    if state and all(name.startswith(PARALLEL) for name in state):
        state = {name.removeprefix(PARALLEL): tensor for name, tensor in state.items()}
    prefix = PREFIX if any(name.startswith(PREFIX) for name in state) else ''
    problems = state_dict_mismatches({prefix + name: tensor for name,
                                      tensor in models.build(MODEL, PRESET).state_dict().items()},
                       state)
    problems += [f'{name} holds {tensor.layout} {tensor.dtype} on {tensor.device}, expected dense '
                 f'floating point' for name, tensor in state.items() if not _is_plain(tensor)]
    if not problems:
        # Copies: tensors that share their memory in the checkpoint cannot be written.
        tensors = {name: tensor.detach().float().clone(memory_format=torch.contiguous_format)
                   for name, tensor in state.items()}
        problems = [f'{name} is not finite in float32 ({wrong} of {tensor.numel()} numbers)'
                    for name, tensor in tensors.items()
                    if (wrong := int((~tensor.isfinite()).sum()))]
    if problems:
        raise WeightsError(f'{source} does not fit {MODEL} {PRESET}: ' + listed(problems))
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}


def imports_of(data: bytes) -> set[str]:
    """Return module.name of all that a file of torch.save, data, asks for when unpickled.

    It is only read.
    """
    found = set()
    try:
        for stream in _pickles(data):
            for name in _imports(stream):
                found.add(name)
    except (ValueError, zipfile.BadZipFile, zlib.error, RuntimeError):
        pass  # damaged, or behind the last pickle: what it asked for until there counts
    return found


def _pickles(data: bytes) -> Iterator[BinaryIO]:
    if data.startswith(b'PK\3\4'):
        with zipfile.ZipFile(BytesIO(data)) as archive:
            for name in archive.namelist():
                if PurePosixPath(name).name == 'data.pkl':
                    yield BytesIO(archive.read(name))
    else:
        stream = BytesIO(data)
        for _ in range(LEGACY_PICKLES):  # each is read up to its end, where the next begins
            yield stream


def _imports(stream: BinaryIO) -> Iterator[str]:
    """Yield what one pickle imports.

    In newer protocols the two names are the strings pushed last.
    """
    pushed: deque[str | None] = deque([None, None], maxlen=2)
    memo: dict[Any, Any] = {}
    for code, argument, _ in pickletools.genops(stream):
        if code.name.endswith('PUT'):
            memo[argument] = pushed[-1]
        elif code.name == 'MEMOIZE':
            memo[len(memo)] = pushed[-1]
        elif code.name in ('GLOBAL', 'INST', 'STACK_GLOBAL'):
            module, _, name = argument.partition(' ') if argument else (pushed[0], '', pushed[1])
            yield _printable(f'{RENAMED.get(str(module), module)}.{name}')
            pushed.append(None)
        elif code.name not in ('PROTO', 'FRAME'):
            text = memo.get(argument) if code.name.endswith('GET') else argument
            pushed.append(text if isinstance(text, str) else None)


def _refusal(source: Path, data: bytes, error: Exception) -> WeightsError:
    # torch has no public list; a later one without this function has every import listed.
    allowed: dict = getattr(torch._weights_only_unpickler, '_get_allowed_globals', dict)()
    refused = sorted(imports_of(data) - set(allowed))
    if refused:
        return WeightsError(
            f'{source} was not opened: beyond tensors its pickle asks for {", ".join(refused)}, '
            f'and an import can run '
            'anything; get a file that holds only the state dict, or where you trust this one, '
            'load it yourself on a ' 'machine with nothing to lose and save its state dict with '
            'safetensors')
    # The first sentence: the next ones advise to open the file unsafely.
    reason = re.split(r'\n|\. ', str(error).rpartition('WeightsUnpickler error: ')[2].strip())[0]
    return WeightsError(f'{source} is not a checkpoint that torch opens safely '
                           f'({type(error).__name__}: ' f'{_printable(reason)}); ' + explained(
                               'expected a whole file of torch.save with tensors only', source,
                               but=(CHECKPOINT,)))


def _printable(text: str) -> str:
    return text.encode('unicode_escape').decode()


def _kind(value) -> str:
    return type(value).__name__


def _is_plain(tensor: torch.Tensor) -> bool:
    return tensor.is_floating_point(
        ) and tensor.layout is torch.strided and tensor.device.type == 'cpu'


def _write(out: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Write all of out or nothing."""
    partial = out.with_name(f'.{out.name}.partial')
    try:
        save_weights(partial, tensors, model=MODEL, preset=PRESET, iterations=None, seed=None,
                     exact=True)
        partial.replace(out)
    finally:
        partial.unlink(missing_ok=True)
