# SPDX-License-Identifier: Apache-2.0
"""Builds the wheel, installs it with each extra into an empty environment, and uses what came.

    python test/install_extras.py                  # all but torch, mamba: 3 GB, a CUDA compiler
    python test/install_extras.py torch onnx

Prints a table in Markdown; exit code 1 when an installation or a use of it fails. Needs a package
index.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FUSE = """
import numpy as np, diffmf_ros
rgb = np.full((48, 64, 3), 80, np.uint8)
thermal = np.random.default_rng(1).integers(0, 255, (48, 64), dtype=np.uint8)
assert diffmf_ros.fuse(rgb, thermal, model=%r).shape == (48, 64, 3)
"""
PICTURES = """
import cv2, numpy as np
for name in ('rgb', 'thermal'):
    cv2.imwrite(f'{name}.png', np.random.default_rng(1).integers(0, 255, (48, 64), dtype=np.uint8))
"""
# Extra: what a user does with it, as words of a command line in the environment.
USES = {
    '': [['python', '-c', FUSE % 'classical'], ['python', '-c', PICTURES],
         ['diffmf', 'fuse', 'rgb.png', 'thermal.png', '-o', 'fused.png', '--model', 'classical']],
    'torch': [['python', '-c', FUSE % 'diffmf'], ['diffmf', 'models'],
              ['diffmf', 'bench', '--frames', '2']],
    'onnx': [['python', '-c', 'import onnx, onnxruntime, onnxscript']],
    'view': [['diffmf', 'bench', '--model', 'classical', '--frames', '2', '--plot', 'plot.png']],
    'rerun': [['diffmf', 'sample-bag', 'drive', '--seconds', '0.3'],
              ['diffmf', 'replay', 'drive', 'out', '--model', 'classical', '--rrd', 'drive.rrd']],
    'ray': [['python', '-c', 'import ray; ray.init(num_cpus=1, include_dashboard=False)']],
    'triton': [['python', '-c', 'import triton']],
    'ros': [['diffmf', 'doctor'], ['viewer', '--help'], ['bag_player', '--help'],
            ['diffmf', 'bench', '--model', 'classical', '--frames', '2']],
    'docs': [['mkdocs', '--version']],
    'test': [['pytest', '--version']],
    'dev': [['pytest', '--version'], ['ruff', '--version']],
}
LARGE = ('torch',)


def build(folder: Path) -> Path:
    """Return the wheel of this checkout, built in folder."""
    subprocess.run([sys.executable, '-m', 'pip', 'wheel', '--quiet', '--no-deps', '--wheel-dir',
                    folder, ROOT],
                   check=True)
    return next(folder.glob('*.whl'))


def try_extra(extra: str, wheel: Path, folder: Path) -> tuple[str, bool]:
    """Install wheel with extra into an empty environment in folder.

    Return a row of the table and whether all went.
    """
    subprocess.run([sys.executable, '-m', 'venv', folder], check=True)
    start_s, failed = time.monotonic(), []
    what = f'{wheel}[{extra}]' if extra else str(wheel)
    commands = [['python', '-m', 'pip', 'install', '--quiet', what], *USES[extra]]
    for words in commands:
        done = subprocess.run([folder / 'bin' / words[0], *words[1:]], cwd=folder,
                              capture_output=True, text=True,
                              env={key: value for key,
                                   value in os.environ.items() if key != 'PYTHONPATH'})
        if done.returncode:
            failed.append(f'`{" ".join(words[:4])[:60]}`: {done.stderr.strip().splitlines()[-1:]}')
            print(done.stdout, done.stderr, file=sys.stderr)
    size_mb = sum(path.stat().st_size for path in folder.rglob('*') if path.is_file()) / 1e6
    said, took_s = '; '.join(failed) or 'works', time.monotonic() - start_s
    row = f'| `{extra or "none"}` | {said} | {took_s:.0f} s | {size_mb:.0f} MB |'
    return row, not failed


def main(extras: list[str]) -> int:
    """Try extras, all small ones by default; return the exit code."""
    with tempfile.TemporaryDirectory() as folder:
        wheel = build(Path(folder))
        print('| extra | | installed and used in | environment |\n|---|---|---|---|')
        good = True
        for extra in extras or [name for name in USES if name not in LARGE]:
            row, worked = try_extra(extra, wheel, Path(folder) / f'with_{extra}')
            print(row, flush=True)
            good &= worked
    return 0 if good else 1


if __name__ == '__main__':
    raise SystemExit(main(sys.argv[1:]))
