# SPDX-License-Identifier: Apache-2.0
"""Everything that needs a GPU, in order of worth, for machines that are paid by the minute.

    python benchmarks/gpu_run.py --out FOLDER [--minutes 14] [--only PART ...] [--device cpu]

The first table stands within a minute. Each part is a process of its own that ends within its
limit, most within 90 s; what is done is not done again when the script is called again with the
same folder, GPU and code. FOLDER/gpu.json has all that was learned, FOLDER/gpu.md is the same to
read, FOLDER/logs the rest. The last part, training, takes the time that is left, and where there
are pairs to train on, --training-minutes are left for it. With --device cpu a CPU stands in for
the GPU: small images, and the parts without a CPU form are passed over, to try the script.
"""

import argparse
import ctypes
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread

from gpu_page import page, table

ROOT = Path(__file__).resolve().parents[1]
NETWORKS = ('diffmf/nano', 'diffmf/light', 'diffmf/base', 's4fusion/light', 'refinefuse/light',
            'diffmf/light-s4', 's4fusion/base', 'refinefuse/base')  # in order of worth
LIMIT_S, TESTS_LIMIT_S, DEMO_LIMIT_S = 90, 60, 90
# Tests, in order of worth: name: (file, what pytest chooses of it on a GPU). Cases run in Triton's
# interpreter elsewhere; files without a choice have networks that go to a GPU by themselves.
TESTS = {
    'triton cases': ('triton_cases.py', ('-k', 'not gradients')),
    'fused cases': ('fused_cases.py', ('-k', 'not gradients')),
    'pixel cases': ('pixel_cases.py', ()),
    'graphs': ('test_graphs.py', ('-m', 'cuda')),
    'device_path': ('test_device_path.py', ('-m', 'cuda')),
    'pipeline': ('test_pipeline.py', ()),
    'selfcheck': ('test_selfcheck.py', ('-k', 'not interpreter')),
    'triton': ('test_triton.py', ('-m', 'cuda', '-k', 'not cases')),
    'training_graph': ('test_training_graph.py', ('-m', 'cuda')),
    'training_precision': ('test_training_precision.py', ('-m', 'cuda')),
    'triton gradients': ('triton_cases.py', ('-k', 'gradients')),
    'fused gradients': ('fused_cases.py', ('-k', 'gradients')),
    'hot_swap': ('test_hot_swap.py', ()),
    'memory': ('test_memory.py', ()),
}
NEED_A_GPU = 'triton', 'fused', 'pixel'  # Triton's interpreter and compiler take minutes
LEAST_TRAINING_S, LEAST_PART_S = 60, 20
WAIT_AFTER_TERM_S, LAST_WORDS_S = 10, 5
CUT_OFF = 124, 137, -signal.SIGKILL  # exit codes of coreutils' timeout when the time was up
LIBC, PR_SET_PDEATHSIG = ctypes.CDLL(None), 1


@dataclass(frozen=True)
class Part:
    """One process.

    Args:
        name: Its key in gpu.json.
        command: What runs, {json} standing for the file of its figures.
        limit_s: After so long it is ended.
        environment: Variables beside those of this process.
        needs_gpu: A stand-in cannot do it.
    """

    name: str
    command: tuple[str, ...]
    limit_s: float = LIMIT_S
    environment: dict[str, str] = field(default_factory=dict)
    needs_gpu: bool = False


def parts(options, caches: Path) -> list[Part]:
    """Return all parts, those that are worth most first."""
    def engine(part, network, **about):
        command = ('benchmarks/gpu_engine.py', part, network, '--device', options.device, '--json',
                   '{json}')
        return Part(f'{part} {network}', command, **about)

    def start(network, when):
        own = caches / network.replace('/', '_')
        return Part(f'start {when} {network}', engine('start', network).command, environment={
            'TRITON_CACHE_DIR': str(own / 'triton'), 'CUDA_CACHE_PATH': str(own / 'cuda'),
            'TORCHINDUCTOR_CACHE_DIR': str(own / 'inductor'), 'XDG_CACHE_HOME': str(own)})

    def tests(name, pattern, chosen):
        file, = (ROOT / 'test').rglob(pattern)
        command = ('-m', 'pytest', '-v', '-rfE', '--tb=short', '-p', 'no:cacheprovider',
                   str(file.relative_to(ROOT)), *(chosen if options.device == 'cuda' else ()))
        return Part(f'tests {name}', command, TESTS_LIMIT_S, {'TRITON_INTERPRET': '0'},
                    needs_gpu=name.startswith(NEED_A_GPU))

    tested = [tests(name, *about) for name, about in TESTS.items()]
    scan = 'benchmarks/gpu_scan.py', *([options.mamba_ssm] if options.mamba_ssm
                                       else []), '--json', '{json}'
    stand_in = ('--seconds', '1') if options.device == 'cpu' else ()
    demo = [Part(f'demo {preset}',
                 ('benchmarks/gpu_demo.py', '--preset', preset, '--device', options.device,
                                    '--json', '{json}', *stand_in), DEMO_LIMIT_S)
            for preset in ('light', 'base')]
    return [*(engine('first', network) for network in NETWORKS[:3]),
            start(NETWORKS[1], 'cold'), start(NETWORKS[1], 'warm'), demo[0],
            engine('step', NETWORKS[2]), *(engine('full', network) for network in NETWORKS[1:3]),
            *tested[:4], demo[1], Part('scans', scan, needs_gpu=True),
            *(engine('first', network) for network in NETWORKS[3:]), *tested[4:],
            *(start(NETWORKS[2], when) for when in ('cold', 'warm')),
            *(engine('full', network) for network in (NETWORKS[0], *NETWORKS[3:]))]


class Run:
    """A folder with what is known so far."""

    def __init__(self, options):
        self.options, self.out = options, options.out.resolve()
        (self.out / 'logs').mkdir(parents=True, exist_ok=True)
        self.file = self.out / 'gpu.json'
        self.ends = time.monotonic() + 60 * options.minutes
        self.state = {'machine': machine(options.device), 'parts': {}}
        if self.file.exists():
            known = json.loads(self.file.read_text())
            if known['machine'] == self.state['machine']:
                self.state = known
            else:
                self.file.rename(self.out / f'gpu.{int(self.file.stat().st_mtime)}.json')

    @property
    def left_s(self) -> float:
        """Seconds until everything has to be over."""
        return self.ends - time.monotonic()

    @property
    def kept_s(self) -> float:
        """Seconds that are kept for training."""
        wanted = not self.options.only or 'train'.startswith(tuple(self.options.only))
        return 60 * self.options.training_minutes if wanted and self.options.data else 0.0

    def do(self, part: Part) -> None:
        """Run a part unless it is done; write what it found."""
        if self.state['parts'].get(part.name, {}).get('ended') == 'done':
            return
        if part.needs_gpu and self.options.device == 'cpu':
            self._note(part, {'ended': 'passed over', 'why': 'needs a GPU'})
            return
        limit_s = min(part.limit_s, self.left_s - (part.name != 'train') * self.kept_s)
        figures = self.out / 'logs' / f'{slug(part.name)}.json'
        figures.unlink(missing_ok=True)
        print(f'== {part.name} (at most {limit_s:.0f} s)', flush=True)
        began = time.monotonic()
        ended, lines = run(part, figures, self.out / 'logs' / f'{slug(part.name)}.log', limit_s)
        found = {'ended': ended, 'wall_s': round(time.monotonic() - began, 1)}
        if figures.exists():
            found['figures'] = json.loads(figures.read_text())
        if part.name.startswith('tests'):
            found['figures'] = counted(lines)
        elif ended != 'done':
            found['last_lines'] = lines[-5:]
        self._note(part, found)

    def _note(self, part: Part, found: dict) -> None:
        self.state['parts'][part.name] = found
        temporary = self.file.with_suffix('.part')
        temporary.write_text(json.dumps(self.state, indent=1))
        temporary.replace(self.file)
        (self.out / 'gpu.md').write_text(page(self.state))
        print(table({part.name: found}), flush=True)

    def train(self) -> None:
        """Train in the time that is left, going on where the last call stopped."""
        seconds = self.left_s - 50  # for the start, the compiler and the last checkpoint
        if seconds < LEAST_TRAINING_S or not self.options.data:
            print(f'no training: {"no data" if not self.options.data else "no time is left"}')
            return
        command = ('-m', 'diffmf_ros.cli.main', 'train',
                   f'config/train/{self.options.recipe}.yaml', '--out',
                   str(self.out / self.options.recipe), '--minutes', f'{seconds / 60:.2f}',
                   '--data', str(self.options.data))
        self.state['parts'].pop('train', None)
        self.do(Part('train', command, self.left_s))


def run(part: Part, figures: Path, log: Path, limit_s: float) -> tuple[str, list[str]]:
    """Run a process; return how it ended and its lines.

    Failed tests are printed the moment they fail. What the part leaves behind in a session of its
    own is not waited for.
    """
    words = [word.replace('{json}', str(figures)) for word in part.command]
    command = ['timeout', f'--kill-after={WAIT_AFTER_TERM_S}', str(max(1, limit_s)),
               sys.executable, *words]
    lines: list[str] = []

    def read():
        with log.open('w') as file:
            for line in process.stdout:
                lines.append(line.rstrip())
                file.write(line)
                file.flush()
                if ' FAILED' in line or ' ERROR' in line:
                    print(line.rstrip(), flush=True)

    process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, **part.environment},
                               text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                               start_new_session=True, preexec_fn=end_with_caller)
    reader = Thread(target=read, daemon=True)
    reader.start()
    try:
        code = process.wait()
    except KeyboardInterrupt:  # which the part, in a session of its own, does not hear of
        process.terminate()
        process.wait()
        raise
    reader.join(LAST_WORDS_S)
    ended = 'done' if code == 0 else 'cut off' if code in CUT_OFF else f'exit code {code}'
    return ended, list(lines)


def end_with_caller() -> None:
    """Ask the kernel to end this process when the one that started it is gone, killed even: a part
    that runs on would take its share of the GPU from the next call."""
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def counted(lines: list[str]) -> dict:
    """Passed, skipped and failed tests of pytest's verbose output, the failed ones by name."""
    results = [line.split() for line in lines if '::' in line
               and not line.startswith(('FAILED', 'ERROR'))]
    kinds = [words[1] for words in results if len(words) > 1]
    return {'passed': kinds.count('PASSED'), 'skipped': kinds.count('SKIPPED'),
            'failed': [words[0] for words in results if len(words) > 1
                       and words[1] in ('FAILED', 'ERROR')]}


def slug(name: str) -> str:
    """A name of a part as one of a file."""
    return name.replace(' ', '_').replace('/', '_')


def machine(device: str) -> dict:
    """Return what the figures belong to: device, versions, code."""
    import platform

    import torch
    if device == 'cuda' and not torch.cuda.is_available():
        sys.exit(f'no GPU: torch {torch.__version__} sees no CUDA device; nothing was run')
    digest = hashlib.sha256()
    for file in sorted((ROOT / 'diffmf_ros').rglob('*.py')):
        digest.update(file.read_bytes())
    name = torch.cuda.get_device_name() if device == 'cuda' else 'a CPU in place of a GPU'
    return {'device': name, 'torch': torch.__version__, 'cuda': torch.version.cuda,
            'code': digest.hexdigest()[:12], 'python': platform.python_version()}


def main() -> None:
    """Run the parts that are not done."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--out', type=Path, default=Path('out/gpu'))
    parser.add_argument('--minutes', type=float, default=14.0)
    parser.add_argument('--training-minutes', type=float, default=4.0,
                        help='are left for training when there are --data')
    parser.add_argument('--device', choices=('cuda', 'cpu'), default='cuda')
    parser.add_argument('--only', nargs='+', help='parts whose names begin so; train is one')
    parser.add_argument('--data', type=Path, help='folder of training pairs, ir/ and vi/ below it')
    parser.add_argument('--recipe', default='diffmf_base', help='of config/train')
    parser.add_argument('--mamba-ssm',
                        help='folder of its unpacked source distribution, to compare scans with')
    options = parser.parse_args()
    os.environ['PYTHONPATH'] = f'{ROOT}{os.pathsep}{os.environ.get("PYTHONPATH", "")}'
    os.environ['PYTHONUNBUFFERED'] = '1'
    if options.device == 'cpu':  # threads that wait for each other on a busy machine take minutes
        os.environ.setdefault('OMP_NUM_THREADS', '1')
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    this = Run(options)
    wanted = tuple(options.only or ('',))
    try:
        for part in parts(options, this.out / 'caches'):
            if part.name.startswith(wanted) and this.left_s - this.kept_s > LEAST_PART_S:
                this.do(part)
        if 'train'.startswith(wanted):
            this.train()
    except KeyboardInterrupt:
        sys.exit(f'interrupted; the same call goes on after what {this.file} has')
    print(f'written to {this.file} and {this.out / "gpu.md"}')
    bad = [name for name, found in this.state['parts'].items()
           if found['ended'] not in ('done', 'passed over')]
    sys.exit(1 if bad else 0)


if __name__ == '__main__':
    main()
