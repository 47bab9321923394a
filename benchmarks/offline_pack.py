# SPDX-License-Identifier: Apache-2.0
"""One archive of all that gpu.sh needs on a machine without a network.

Wheels, and pairs to train on.

    python benchmarks/offline_pack.py OUT.tar.xz --wheels FOLDER [--data PATH] [--download]

FOLDER holds wheels; --download first fetches those of requirements/run.txt, ros.txt and the test
tools for the other machine's Python, without what --has names. Wheels are zip files, which xz
cannot shrink, so they are packed again without compression of their own. If the archive would be
larger than --most-mb, pairs are left out evenly; wheels never are.
"""

import argparse
import io
import lzma
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TEST_TOOLS = ('pytest', 'pytest-timeout', 'hypothesis')
# What a machine with torch has, or what is too large and needed for nothing here.
HAS = 'torch,triton,numpy,opencv-python-headless,PyYAML,setuptools,pip'
PLATFORMS = ('manylinux_2_28_x86_64', 'manylinux_2_27_x86_64', 'manylinux_2_17_x86_64',
             'manylinux2014_x86_64')
# Of the ROS packages' needs; it has no wheel on the index, and is plain Python.
SOURCES = ('empy==4.2.1',)
IMAGES = ('.jpg', '.jpeg', '.png')


class PackError(Exception):
    """What is wrong with what was given, in words."""


def pack(out: Path, wheels: Path, data: Path | None, *, most_bytes: int) -> dict[str, int]:
    """Write the archive; return how many wheels and pairs are in it, pairs left out, and its
    bytes.

    Raises PackError for folders without wheels or pairs, and when the wheels alone are too large.
    """
    packed = pack_wheels(wheels)
    if len(packed) > most_bytes:
        raise PackError(f'the wheels of {wheels} alone are {len(packed) / 1e6:.1f} MB, more than '
                        f'{most_bytes / 1e6:.0f}: {", ".join(largest(wheels))} are the largest; '
                        f'see --has')
    pairs = read_pairs(data) if data else {}
    kept = fitting(pairs, most_bytes - len(packed))
    with tarfile.open(out, 'w') as archive:  # its parts are compressed already
        add(archive, 'wheels.tar.xz', packed)
        for name in kept:
            for modality, content in pairs[name].items():
                add(archive, f'data/{modality}/{name}', content)
    return {'wheels': len(list(wheels.glob('*.whl'))), 'pairs': len(kept),
            'left out': len(pairs) - len(kept), 'bytes': out.stat().st_size}


def pack_wheels(wheels: Path) -> bytes:
    """Return a tar.xz of the wheels of a folder, each stored without compression of its own."""
    files = sorted(wheels.glob('*.whl'))
    if not files:
        raise PackError(f'{wheels} holds no wheels (*.whl): download them first, with --download')
    buffer = io.BytesIO()
    with lzma.open(buffer, 'wb', preset=6) as compressed, tarfile.open(
            fileobj=compressed, mode='w|') as archive:
        for file in files:
            add(archive, f'wheels/{file.name}', stored(file))
    return buffer.getvalue()


def stored(wheel: Path) -> bytes:
    """Return a wheel as a zip file without compression.

    Its contents, and so its record, stay the same.
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(wheel) as source, zipfile.ZipFile(buffer, 'w',
                                                           zipfile.ZIP_STORED) as target:
        for entry in source.infolist():
            copy = zipfile.ZipInfo(entry.filename, entry.date_time)
            copy.external_attr = entry.external_attr
            target.writestr(copy, source.read(entry))
    return buffer.getvalue()


def read_pairs(data: Path) -> dict[str, dict[str, bytes]]:
    """Return {file name: {'ir': bytes, 'vi': bytes}} of a folder, or a tar, with ir/ and vi/ in
    it."""
    found: dict[str, dict[str, bytes]] = {}
    for path, content in _files(data):
        if path.suffix.lower() in IMAGES and path.parent.name in ('ir', 'vi'):
            found.setdefault(path.name, {})[path.parent.name] = content
    pairs = {name: both for name, both in sorted(found.items()) if len(both) == 2}
    if not pairs:
        raise PackError(f'{data} holds no pairs: expected ir/ and vi/ with images of equal names')
    return pairs


def _files(data: Path):
    if data.is_dir():
        yield from ((path, path.read_bytes()) for path in sorted(data.rglob('*'))
                    if path.is_file())
        return
    with tarfile.open(data) as archive:
        for member in archive:
            if member.isfile():
                yield Path(member.name), archive.extractfile(member).read()


def fitting(pairs: dict, most_bytes: int) -> list[str]:
    """Return the names of as many pairs as fit, evenly spread."""
    block = tarfile.BLOCKSIZE
    sizes = {name: sum(block + -(-len(content) // block) * block for content in both.values())
             for name, both in pairs.items()}
    names, count = list(sizes), len(sizes)
    most_bytes -= 4 * tarfile.RECORDSIZE  # of the archive itself
    while count:
        kept = [names[i * len(names) // count] for i in range(count)]
        total = sum(sizes[name] for name in kept)
        if total <= most_bytes:
            return kept
        count = min(count - 1, int(count * max(0, most_bytes) / total))
    return []


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    """Add a file to a tar, without the date and the owner of this machine."""
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    archive.addfile(entry, io.BytesIO(content))


def largest(wheels: Path) -> list[str]:
    """Return the three largest wheels."""
    files = sorted(wheels.glob('*.whl'), key=lambda file: -file.stat().st_size)[:3]
    return [f'{file.name.partition("-")[0]} ({file.stat().st_size / 1e6:.1f} MB)'
            for file in files]


def download(wheels: Path, *, python: str, has: set[str]) -> None:
    """Fetch wheels for another Python with pip, without those that the other machine has.

    Raises PackError when pip fails.
    """
    wheels.mkdir(parents=True, exist_ok=True)
    lines = [line.strip() for name in ('run', 'ros')
             for line in (ROOT / f'requirements/{name}.txt').read_text()
             .splitlines() if line.strip() and not line.startswith('#')]
    wanted = [line for line in (*lines, *TEST_TOOLS)
              if line.partition('=')[0].partition('[')[0] not in has]
    build = ['wheel', '-w', str(wheels), '--no-deps', *SOURCES]
    fetch = ['download', '-d', str(wheels), '--find-links', str(wheels), '--only-binary', ':all:',
             '--implementation', 'cp', '--python-version', python,
             *(word for platform in PLATFORMS for word in ('--platform', platform)), *wanted]
    for words in (build, fetch):
        command = [sys.executable, '-m', 'pip', words[0], '-q', '--disable-pip-version-check',
                   *words[1:]]
        if subprocess.run(command, check=False).returncode:
            raise PackError('pip could not get the wheels, see above')
    for file in wheels.glob('*.whl'):
        if file.name.partition('-')[0].replace('_', '-').lower() in {name.lower() for name in has}:
            file.unlink()


def main() -> None:
    """Make the archive and say what is in it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('out', type=Path)
    parser.add_argument('--wheels', type=Path, required=True, help='folder of wheels')
    parser.add_argument('--data', type=Path,
                        help='folder or tar of training pairs, ir/ and vi/ in it')
    parser.add_argument('--download', action='store_true', help='fetch the wheels first')
    parser.add_argument('--python', default='3.12', help='version of the other machine')
    parser.add_argument('--has', default=HAS, help='packages that the other machine has')
    parser.add_argument('--most-mb', type=float, default=60.0)
    options = parser.parse_args()
    try:
        if options.download:
            download(options.wheels, python=options.python, has=set(options.has.split(',')))
        found = pack(options.out, options.wheels, options.data,
                     most_bytes=int(options.most_mb * 1e6))
    except (PackError, OSError, tarfile.TarError, zipfile.BadZipFile) as error:
        sys.exit(f'error: {error}')
    print(f'{options.out}: {found.pop("bytes") / 1e6:.1f} MB, '
          + ', '.join(f'{value} {name}' for name, value in found.items()))


if __name__ == '__main__':
    main()
