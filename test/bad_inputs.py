# SPDX-License-Identifier: Apache-2.0
"""Every place of the commands that takes a file, and every kind of bad file.

The rows and columns of one matrix.

`python test/bad_inputs.py` writes the matrix into docs/commands.md.
"""

import contextlib
import hashlib
import inspect
import io
import os
import pickle
import shutil
import tempfile
import traceback
import zipfile
import zlib
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import get_args

import cv2
import numpy as np
from typer.main import get_command

from diffmf_ros.cli import main
from diffmf_ros.cli.main import application, run
from diffmf_ros.inference.weights_header import shipped
from diffmf_ros.io.bag_messages import image_message
from diffmf_ros.io.bags import IMAGE, BagWriter

DOCS = Path(__file__).parents[1] / 'docs' / 'commands.md'
BEGIN, END = '<!-- matrix begins: python test/bad_inputs.py -->', '<!-- matrix ends -->'
LATIN_1 = os.fsdecode(b'b\xe4d')
CLASSICAL = ('--model', 'classical')


class Harmful:
    """Makes a file when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ('unpickled',)


def encoded(suffix: str, pixels: np.ndarray) -> bytes:
    """Return the content of an image file."""
    return cv2.imencode(suffix, pixels)[1].tobytes()


def huge_png() -> bytes:
    """Return a PNG that claims to have 60000 x 60000 pixels."""
    small = encoded('.png', np.zeros((1, 1), np.uint8))
    header = b'IHDR' + (60_000).to_bytes(4, 'big') * 2 + small[24:29]
    return small[:12] + header + zlib.crc32(header).to_bytes(4, 'big') + small[33:]


def archive(**files: bytes) -> bytes:
    """Return a zip archive."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, 'w') as file:
        for name, data in files.items():
            file.writestr(name, data)
    return content.getvalue()


_random = np.random.default_rng(7)
PICTURE = _random.integers(0, 256, (48, 64, 3), np.uint8)
COUNTS = _random.integers(7000, 9000, (48, 64), np.uint16)
# Kind -> content of the file.
CONTENTS = {
    'empty': b'',
    'text': b'Hello, this is no image and nothing else that anybody wants.\n',
    'zeros': bytes(20_000),
    'random bytes': _random.bytes(20_000),
    'Git LFS pointer': b'version https://git-lfs.github.com/spec/v1\noid sha256:' + b'a' * 64
    + b'\nsize 12\n',
    'HTML page': (b'<!DOCTYPE html><html><head><title>Sign in</title></head>'
                  b'<body>404</body></html>\n'),
    'cut PNG': encoded('.png', PICTURE)[:3000],
    'cut JPEG': encoded('.jpg', PICTURE)[:900],
    'PNG with a flipped byte': encoded('.png', PICTURE)[:500] + b'\xff'
    + encoded('.png', PICTURE)[501:],
    '16-bit color PNG': encoded('.png', PICTURE.astype(np.uint16) * 257),
    'float64 TIFF': encoded('.tiff', COUNTS.astype(np.float64)),
    'TIFF of NaN': encoded('.tiff', np.full((48, 64), np.nan, np.float32)),
    'one pixel': encoded('.png', np.zeros((1, 1), np.uint8)),
    'image of another size': encoded('.png', PICTURE[:40, :50]),
    'PNG of 60000x60000': huge_png(),
    'pickle that runs code': pickle.dumps(Harmful()),
    'zip archive': archive(a=b'x'),
    'cut safetensors': (8000).to_bytes(8, 'little') + b'{"a": {"dtype": "F32", "shape": [4',
    'safetensors of another program': (2).to_bytes(8, 'little') + b'{}',
    'broken YAML': b'a: [1, 2\nb: {',
    'YAML list': b'- 1\n- 2\n',
    'JSON of something else': b'{"name": {"x": 1}}',
    'SQLite without tables': b'SQLite format 3\0' + bytes(84),
    'MCAP that ends at once': b'\x89MCAP0\r\n',
}
# Kinds that are no file with a content.
PLACES = ('missing', 'folder', 'dangling link', 'link to itself', 'below a file',
          'name of 300 characters', 'name that is not UTF-8', '/dev/null', 'no name')
KINDS = (*PLACES, *CONTENTS)


@dataclass(frozen=True)
class Slot:
    """One argument or option that takes a file or folder.

    arguments has the command line, with BAD for the file or folder. suffix is the ending of the
    file; in a slot that takes a folder, inside names where in it the file lies.
    """

    name: str
    arguments: tuple[str, ...]
    suffix: str = '.png'
    inside: str = ''


BAD = 'BAD'
FUSE = ('fuse', 'rgb.png', 'thermal.png', '-o', 'new.png')
SLOTS = (
    Slot('fuse RGB', ('fuse', BAD, 'thermal.png', '-o', 'new.png', *CLASSICAL)),
    Slot('fuse THERMAL', ('fuse', 'rgb.png', BAD, '-o', 'new.png', *CLASSICAL)),
    Slot('fuse --weights', (*FUSE, '--weights', BAD), '.safetensors'),
    Slot('fuse --engine onnx', (*FUSE, '--engine', 'onnx', '--weights', BAD), '.onnx'),
    Slot('fuse --alignment', (*FUSE, *CLASSICAL, '--alignment', BAD), '.yaml'),
    Slot('fuse --params', (*FUSE, *CLASSICAL, '--params', BAD), '.yaml'),
    Slot('fuse RGB_DIR', ('fuse', BAD, 'ir', '-o', 'new', *CLASSICAL), inside='0.png'),
    Slot('fuse THERMAL_DIR', ('fuse', 'vi', BAD, '-o', 'new', *CLASSICAL), inside='0.png'),
    Slot('fuse VIDEO', ('fuse', BAD, 'film.avi', '-o', 'new.mp4', *CLASSICAL), '.mp4'),
    Slot('align RGB', ('align', BAD, 'thermal.png', '-o', 'new.yaml')),
    Slot('align THERMAL', ('align', 'rgb.png', BAD, '-o', 'new.yaml')),
    Slot('align RGB_DIR', ('align', BAD, 'ir', '-o', 'new.yaml'), inside='0.png'),
    Slot('align --bag', ('align', '--bag', BAD, '-o', 'new.yaml'), '.db3'),
    Slot('align --init', ('align', 'rgb.png', 'thermal.png', '--init', BAD, '-o', 'new.yaml'),
         '.yaml'),
    Slot('replay BAG', ('replay', BAD, 'new', *CLASSICAL), '.mcap'),
    Slot('replay BAG_DIR', ('replay', BAD, 'new', *CLASSICAL), inside='metadata.yaml'),
    Slot('replay --alignment', ('replay', 'bag', 'new', *CLASSICAL, '--alignment', BAD), '.yaml'),
    Slot('replay --detector', ('replay', 'bag', 'new', *CLASSICAL, '--detector', BAD), '.onnx'),
    Slot('replay --weights', ('replay', 'bag', 'new', '--weights', BAD), '.safetensors'),
    Slot('replay --params', ('replay', 'bag', 'new', *CLASSICAL, '--params', BAD), '.yaml'),
    Slot('make-bag FOLDER', ('make-bag', BAD, 'new', '--rate', '10'), inside='vi/0.png'),
    Slot('eval --rgb', ('eval', '--rgb', BAD, '--thermal', 'ir', '--fused', 'vi'), inside='0.png'),
    Slot('eval --thermal', ('eval', '--rgb', 'vi', '--thermal', BAD, '--fused', 'vi'),
         inside='0.png'),
    Slot('eval --fused', ('eval', '--rgb', 'vi', '--thermal', 'ir', '--fused', BAD),
         inside='0.png'),
    Slot('eval --pairs', ('eval', '--pairs', BAD, '--model', 'average'), inside='ir/0.png'),
    Slot('eval --boxes', ('eval', '--pairs', '.', '--model', 'average', '--boxes', BAD), '.json'),
    Slot('eval --weights', ('eval', '--pairs', '.', '--model', 'diffmf', '--weights', BAD),
         '.safetensors'),
    Slot('eval --detector', ('eval', '--pairs', '.', '--model', 'average', '--detector', BAD),
         '.onnx'),
    Slot('train CONFIG', ('train', BAD, '--out', 'new'), '.yaml'),
    Slot('train --data', ('train', 'config.yaml', '--data', BAD, '--out', 'new'),
         inside='vi/0.png'),
    Slot('model-card CONFIG', ('model-card', BAD, '.'), '.yaml'),
    Slot('model-card SCORED_ON', ('model-card', 'config.yaml', BAD), inside='vi/0.png'),
    Slot('models --score', ('models', '--score', BAD, '--model', 'diffmf', '--preset', 'nano'),
         inside='ir/0.png'),
    Slot('bench --weights', ('bench', '--weights', BAD, '--size', '64x48', '--frames', '1'),
         '.safetensors'),
    Slot('export --weights', ('export', '--onnx', 'new.onnx', '--weights', BAD), '.safetensors'),
    Slot('convert-weights', ('convert-weights', BAD, '-o', 'new.safetensors'), '.pth'),
    Slot('demo --bag', ('demo', '--bag', BAD, '--out', 'new'), '.mcap'),
    Slot('demo --weights', ('demo', '--bag', 'empty_bag', '--weights', BAD, '--out', 'new'),
         '.safetensors'),
    Slot('demo --alignment', ('demo', '--bag', 'empty_bag', '--alignment', BAD, '--out', 'new'),
         '.yaml'),
)


COMMANDS = get_command(application()).commands


def file_parameters() -> list[tuple[str, str]]:
    """Return (command, parameter) of everything on a command line that names a file or folder."""
    found = []
    for module in main.COMMANDS:
        command = getattr(import_module(f'diffmf_ros.cli.{module}'), module)
        taken = inspect.signature(command, eval_str=True).parameters
        found += [(module.replace('_', '-'), name) for name, parameter in taken.items()
                  if _names_files(parameter.annotation)]
    return found


def _names_files(annotation: object) -> bool:
    return annotation is Path or any(map(_names_files, get_args(annotation)))


def taking(arguments: tuple[str, ...], word: str) -> tuple[str, str]:
    """Return (command, parameter) of the parameter that takes a word of a command line."""
    name, *words = arguments
    values = COMMANDS[name].make_context(name, words).params
    return name, next(parameter for parameter, value in values.items()
                      if Path(word) in (value if isinstance(value, (list, tuple)) else (value,)))


def furnish(folder: Path) -> None:
    """Make what the commands take besides the bad file: images, a folder of pairs, bags, a recipe.
    """
    for name, content in _furniture().items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


@lru_cache(1)
def _furniture() -> dict[Path, bytes]:
    """Return the content of every file that furnish() makes, by its path."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _build(folder)
        return {path.relative_to(folder): path.read_bytes()
                for path in folder.rglob('*') if path.is_file()}


def _build(folder: Path) -> None:
    """Write images, pairs, bags and recipe with the libraries that commands read them with."""
    pictures = {'rgb.png': PICTURE, 'thermal.png': COUNTS, 'vi/0.png': PICTURE,
                'ir/0.png': PICTURE[:, :, 0], 'vi/1.png': PICTURE, 'ir/1.png': PICTURE[:, :, 1]}
    for name in ('vi', 'ir'):
        (folder / name).mkdir(parents=True)
    for name, pixels in pictures.items():
        (folder / name).write_bytes(encoded('.png', pixels))
    for name, pixels in (('film', PICTURE), ('heat', np.dstack([PICTURE[:, :, 0]] * 3))):
        film = cv2.VideoWriter(str(folder / f'{name}.avi'), cv2.VideoWriter_fourcc(*'MJPG'), 10,
                               (64, 48))
        film.write(pixels)
        film.release()
    # A scene, and the same seen by a camera of half the resolution: what align can align.
    scene = np.kron(_random.integers(0, 256, (60, 80), np.uint8), np.ones((8, 8), np.uint8))
    (folder / 'fine.png').write_bytes(encoded('.png', np.dstack([scene] * 3)))
    (folder / 'half.png').write_bytes(encoded('.png', scene[::2, ::2]))
    for name, topics in (('bag', ('/rgb/image_raw', '/thermal/image_raw')),
                         ('empty_bag', ('/other',))):
        with BagWriter(folder / name) as bag:
            for topic in topics:
                bag.write(topic, IMAGE,
                          image_message(PICTURE[:, :, 0], 'mono8', stamp_ns=1, frame_id=''), 1)
    (folder / 'config.yaml').write_text('data: none\nout: out\npreset: nano\niterations: '
                                        '1\nbatch: 1\ncrop: 16\n'
                                        'device: cpu\n')
    (folder / 'out').mkdir()
    shutil.copy(shipped('diffmf', 'nano'), folder / 'out')
    (folder / 'out' / 'log.csv').write_text('iteration,total\n1,0.5\n')


def place(folder: Path, slot: Slot, kind: str) -> str:
    """Make the bad file of a kind for a slot.

    Return the argument that names it, relative to folder.
    """
    name = f'bad{slot.suffix}' if not slot.inside else 'bad'
    path = folder / name
    if kind in CONTENTS:
        if slot.inside:
            path = _good_folder(path, slot) / slot.inside
        path.write_bytes(CONTENTS[kind])
        return name
    if kind == 'folder':
        path.mkdir()
    elif kind == 'dangling link':
        path.symlink_to(folder / 'nowhere')
    elif kind == 'link to itself':
        path.symlink_to(path)
    elif kind == 'name that is not UTF-8':
        name = f'{LATIN_1}{slot.suffix}'
        (folder / name).write_bytes(CONTENTS['text'])
    return {'below a file': f'config.yaml/{name}',
            'name of 300 characters': 'x' * 300 + slot.suffix,
            '/dev/null': kind, 'no name': ''}.get(kind, name)


def _good_folder(path: Path, slot: Slot) -> Path:
    """Make a folder of good pairs, or of images of one camera, in which the bad file then takes
    the place of one."""
    if slot.inside.endswith('.png'):
        for camera in ('vi', 'ir') if '/' in slot.inside else ('',):
            (path / camera).mkdir(parents=True, exist_ok=True)
            # A thermal picture in color is refused where its palette is not known.
            gray = 'THERMAL' in slot.name or slot.name.startswith('make-bag') and camera == 'ir'
            good = PICTURE[:, :, 0] if gray else PICTURE
            for number in (0, 1):
                (path / camera / f'{number}.png').write_bytes(encoded('.png', good))
    path.mkdir(exist_ok=True)
    return path


@dataclass(frozen=True)
class Outcome:
    """What a command did: exit code, what it said, the traceback, and what it did to other files.
    """

    code: int
    said: str
    traceback: str = ''
    harm: str = ''


def state(folder: Path) -> dict[str, str]:
    """Return the digest of every file below folder."""
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in folder.rglob('*') if path.is_file()}


def tried(folder: Path, slot: Slot, kind: str) -> Outcome:
    """Run the command of a slot with a bad file, in a folder that furnish() has made.

    Leave it as it was.
    """
    there, here = set(os.listdir(folder)), os.getcwd()
    os.chdir(folder)
    try:
        argument = place(folder, slot, kind)
        before = state(folder)
        outcome = ran([argument if part == BAD else part for part in slot.arguments])
        after = state(folder)
        harm = [f'{path} changed' for path in before if after.get(path) != before[path]]
        harm += [f'{path} was left' for path in after if 'partial' in path or 'unfinished' in path]
        harm += ['a pickle was executed'] * (folder / 'unpickled').exists()
        return replace(outcome, harm='; '.join(harm))
    finally:
        os.chdir(here)
        for name in set(os.listdir(folder)) - there:
            path = folder / name
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def ran(arguments: list[str]) -> Outcome:
    """Run a command in this process."""
    said = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
        try:
            return Outcome(run(arguments), said.getvalue())
        except Exception:
            return Outcome(-1, said.getvalue(), traceback.format_exc())


def cell(outcome: Outcome) -> str:
    """Return what the matrix says of an outcome: the exit code, unless it is worse."""
    return 'traceback' if outcome.traceback else outcome.harm or str(outcome.code)


def table() -> str:
    """Return the matrix in Markdown: exit codes, kinds down, slots across."""
    rows = [['', *(slot.name for slot in SLOTS)], ['---'] * (len(SLOTS) + 1)]
    with tempfile.TemporaryDirectory() as name:
        furnish(Path(name))
        for kind in KINDS:
            rows.append([kind, *(cell(tried(Path(name), slot, kind)) for slot in SLOTS)])
    return '\n'.join(f'| {" | ".join(row)} |' for row in rows)


def documented() -> dict[tuple[str, str], str]:
    """Return {(kind, slot): cell} of the matrix in docs/commands.md."""
    lines = DOCS.read_text(encoding='utf-8').partition(BEGIN)[2].partition(END)[0].strip(
        ).splitlines()
    rows = [[entry.strip() for entry in line.strip('|').split('|')] for line in lines]
    return {(row[0], slot): entry for row in rows[2:] for slot,
            entry in zip(rows[0][1:], row[1:], strict=True)}


if __name__ == '__main__':
    before, _, rest = DOCS.read_text(encoding='utf-8').partition(BEGIN)
    DOCS.write_text(f'{before}{BEGIN}\n\n{table()}\n\n{END}{rest.partition(END)[2]}',
                    encoding='utf-8')
