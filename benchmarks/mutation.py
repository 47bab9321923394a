# SPDX-License-Identifier: Apache-2.0
"""Tries the mutants that mutmut makes of some modules, in random order.

    pip install mutmut==3.8.1
    python benchmarks/mutation.py pairing [--sample 200] [--out out/mutation]

pytest collects the tests once, and each mutant is a fork of that process, with the tests that
reach its function, the fastest first. So a mutant costs a fraction of a second, not a start of
Python. What became of each is kept in OUT/GROUP.json with a hash of the sources; an interrupted
run goes on there, and begins anew where the package or a test has changed.
"""

import argparse
import gc
import hashlib
import json
import math
import os
import random
import resource
import shutil
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from statistics import NormalDist

import mutants
import pytest
from _pytest.runner import runtestprotocol

ROOT = Path(__file__).parents[1]
GROUPS = {  # modules, and the tests of them that are quick
    'pairing': (('core/sync/pairing.py',), mutants.PAIRING),
    'health': (('core/sync/stream_health.py', 'core/sync/stream_measures.py'), (
        *mutants.HEALTH, 'test/core/sync/test_stream_rate.py',
        'test/core/sync/test_freeze_detector.py', 'test/core/sync/test_latency.py',
        'test/core/sync/test_pairing_clock.py')),
    'faults': (('inference/fault_tolerance.py',), (
        *mutants.FAULTS, 'test/inference/test_overlapped_pairs.py',
        'test/inference/test_pipeline.py')),
    'alignment': (('core/alignment/homography.py', 'core/alignment/geometry.py'),
                  (*mutants.GEOMETRY, 'test/core/alignment/test_alignment_file.py')),
    'gray': (('core/imaging/gray_range.py',),
             (*mutants.GRAY, 'test/core/imaging/test_extra_rows.py'))}
SLOW = ('test_replayed_bag_same_pair_count', 'test_noisy_cameras_equal_brute_force',
        'test_jitter_misleads_the_prediction_hardly_ever')
COPIED = ('diffmf_ros', 'test', 'config', 'benchmarks', 'setup.py', 'package.xml')
SPARE_S, WALL_S = 2, 600  # for a mutant that may never end: processor time beyond twice the usual
QUICK_S = 0.1  # of processor time
KILLED, SURVIVED, UNREACHED = 'killed', 'survived', 'no tests'
WAITS = 'survived the quick tests'


def generate(folder: Path, modules: tuple[str, ...]) -> None:
    """Let mutmut write a copy of the package with all mutants into folder/mutants."""
    for name in COPIED:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / name)
    only = [f'diffmf_ros/{module}' for module in modules]
    (folder / 'pyproject.toml').write_text(
        f'[tool.mutmut]\nsource_paths = ["diffmf_ros"]\nonly_mutate = {only}\n'
        f'also_copy = {[name for name in COPIED if name != "test"]}\n')
    # Hypothesis without deadlines, which a busy machine misses, and without shrinking failures.
    with (folder / 'test' / 'conftest.py').open('a') as file:
        file.write('\n\nfrom hypothesis import HealthCheck, Phase, settings\n'
                   'settings.register_profile("mutants", deadline=None, derandomize=True, '
                   'database=None, suppress_health_check=list(HealthCheck), '
                   'phases=(Phase.explicit, Phase.generate))\n'
                   'settings.load_profile("mutants")\n')
    (folder / 'mutants').mkdir()
    os.chdir(folder)
    os.environ['MUTANT_UNDER_TEST'] = 'mutant_generation'
    import mutmut.__main__ as mutmut
    mutmut.copy_src_dir()
    mutmut.copy_also_copy_files()
    mutmut.create_mutants(1)


def sources_hash() -> str:
    """Return a hash of what decides what becomes of a mutant: package, tests and this script."""
    digest = hashlib.sha256()
    for name in COPIED:
        top = ROOT / name
        for path in sorted(top.rglob('*')) if top.is_dir() else [top]:
            if path.suffix in ('.py', '.yaml', '.xml'):
                digest.update(f'{path.relative_to(ROOT)}\0'.encode() + path.read_bytes())
    return digest.hexdigest()


def kept_ends(file: Path, sources: str, *, killed: bool = False) -> dict[str, str]:
    """Return what became of each mutant of the same sources; of other ones nothing, or the killed.
    """
    kept = json.loads(file.read_text()) if file.exists() else {}
    if kept.get('sources') == sources:
        return kept['ends']
    return {name: end for name, end in kept.get('ends', {}).items() if killed and end == KILLED}


class Trials:
    """In place of pytest's loop over the tests: a loop over mutants."""

    def __init__(self, file: Path, options: argparse.Namespace):
        self._file, self._options = file, options

    def pytest_runtestloop(self, session) -> bool:
        """Run all tests once, then those of every mutant."""
        reached, spent_s = _run_all(session.items)
        sources = sources_hash()
        found = kept_ends(self._file, sources, killed=self._options.keep_killed)
        names = [name for meta in sorted(Path('diffmf_ros').rglob('*.meta'))
                 for name in json.loads(meta.read_text())['exit_code_by_key']]
        if not names:
            sys.exit('mutmut made no mutant: look for its messages above, and at GROUPS')
        random.Random(19).shuffle(names)
        total, names = len(names), names[:self._options.sample or None]
        gc.collect()
        gc.freeze()  # else every fork copies what its collector looks at
        # The slow tests are for what the quick ones leave alive.
        for quick in (True,) if self._options.quick else (True, False):
            for name in names:
                if name in found and (quick or found[name] != WAITS):
                    continue
                every = reached.get(name.rpartition('__mutmut_')[0], [])
                tests = sorted((test for test in every
                                if quick == (spent_s[test.nodeid] <= QUICK_S)),
                               key=lambda test: spent_s[test.nodeid])
                found[name] = _tried(name, tests, spent_s) if every else UNREACHED
                if quick and found[name] == SURVIVED:
                    found[name] = WAITS
                self._file.write_text(json.dumps({'sources': sources, 'ends': found}, indent=0))
        said = summary(list(found.values()), total)
        reporter = session.config.pluginmanager.get_plugin('terminalreporter')
        reporter.write_line(said)
        return True


def _run_all(tests) -> tuple[dict[str, list], dict[str, float]]:
    """Run the tests without a mutant.

    Return those that reach each function, and the seconds of processor time of each.
    """
    from mutmut.mutation import trampoline
    reached: dict[str, list] = {}
    spent_s: dict[str, float] = {}
    hit: set[str] = set()
    trampoline.record_trampoline_hit = lambda name, caller=None: hit.add(name)
    os.environ['MUTANT_UNDER_TEST'] = 'stats'
    for test, after in zip(tests, [*tests[1:], None]):
        hit.clear()
        start_s = time.process_time()
        if any(report.failed for report in runtestprotocol(test, nextitem=after, log=False)):
            sys.exit(f'{test.nodeid} fails without a mutant')
        spent_s[test.nodeid] = time.process_time() - start_s
        for name in hit:
            reached.setdefault(name, []).append(test)
    os.environ['MUTANT_UNDER_TEST'] = ''
    return reached, spent_s


def _tried(name: str, tests: list, spent_s: dict[str, float]) -> str:
    """Return what becomes of a mutant: killed, survived, or how its process ended."""
    limit_s = SPARE_S + 2 * sum(spent_s[test.nodeid] for test in tests)
    pid = os.fork()
    if pid:
        status = os.waitpid(pid, 0)[1]
        return {0: SURVIVED, 256: KILLED}.get(status, f'timeout {status}')
    try:
        os.environ['MUTANT_UNDER_TEST'] = name
        end_s = math.ceil(time.process_time() + limit_s)
        resource.setrlimit(resource.RLIMIT_CPU, (end_s, end_s + 1))
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(WALL_S)
        failed = any(report.failed for test, after in zip(tests, [*tests[1:], None])
                     for report in runtestprotocol(test, nextitem=after, log=False))
        os._exit(int(failed))
    except BaseException:
        os._exit(1)


def summary(ends: list[str], total: int) -> str:
    """Return how many were noticed (killed or endless), with Wilson's 95 % interval."""
    count, noticed = len(ends), sum(end not in (SURVIVED, WAITS, UNREACHED) for end in ends)
    z, share = NormalDist().inv_cdf(0.975), noticed / count
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z * math.sqrt(share * (1 - share) / count + (z / count) ** 2 / 4) / (1 + z * z / count)
    return (f'{count} of {total} mutants: {dict(Counter(ends))}; noticed {share:.1%} '
            f'({middle - half:.1%} to {middle + half:.1%})')


def main() -> int:
    """Generate, try and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('group', choices=GROUPS)
    parser.add_argument('--sample', type=int, default=0,
                        help='number of mutants to try, drawn at random; 0: all')
    parser.add_argument('--quick', action='store_true',
                        help='leave out slow tests: what the others do not kill waits for them')
    parser.add_argument('--keep-killed', action='store_true',
                        help='only tests were added: try no mutant again that was killed')
    parser.add_argument('--out', type=Path, default=Path('out/mutation'))
    options = parser.parse_args()
    modules, tests = GROUPS[options.group]
    folder = options.out.resolve() / options.group
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    generate(folder, modules)
    os.environ['MUTANT_UNDER_TEST'] = ''
    os.chdir(folder / 'mutants')
    sys.path[:0] = [os.getcwd()]
    return pytest.main(['-q', '--tb=native', '-p', 'no:cacheprovider', '-p', 'no:timeout',
                        '-p', 'no:xdist', '-p', 'no:warnings', '-k',
                        ' and '.join(f'not {name}' for name in SLOW), *tests],
                       plugins=[Trials(folder.with_suffix('.json'), options)])


if __name__ == '__main__':
    sys.exit(main())
