# SPDX-License-Identifier: Apache-2.0
"""Breaks one line after another in a copy of the package, and runs the tests that should notice.

    python benchmarks/mutants.py [--only WORD] [--list]
"""

import argparse
import importlib
import os
import shutil
import signal
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TIMEOUT_S = 600  # of the tests of one mutant
LIBRARIES = ('cv2', 'hypothesis', 'torch')  # loaded once, before the forks
PAIRING = (
    'test/core/sync/test_pairing.py',
    'test/core/sync/test_pairing_clock.py',
    'test/core/sync/test_pairing_hold.py',
)
HEALTH = ('test/core/sync/test_stream_health.py',)
SOURCES = ('test/core/sync/test_source_selector.py',)
GEOMETRY = ('test/core/alignment/test_geometry.py', 'test/core/alignment/test_aligner.py')
FAULTS = (
    'test/inference/test_ladder.py',
    'test/inference/test_working_size.py',
    'test/inference/test_watchdog.py',
    'test/inference/test_compute_faults.py',
)
NETWORKS = (
    'test/models/test_mixing.py',
    'test/models/test_models.py',
    'test/regression/test_faults.py::test_network_pixels_match_stored',
)
SCANS = ('test/models/test_scan.py',)
GRAY = (
    'test/core/imaging/test_gray_range.py',
    'test/core/imaging/test_thermal_levels.py',
    'test/core/imaging/test_thermal.py',
)


@dataclass(frozen=True)
class Mutant:
    """One change of one file: `old` becomes `new` where it is first."""

    file: str
    old: str
    new: str
    tests: tuple[str, ...]


def _group(file: str, tests: tuple[str, ...], *changes: tuple[str, str]) -> list[Mutant]:
    return [Mutant(file, old, new, tests) for old, new in changes]


MUTANTS = [
    *_group(
        'core/imaging/warm_contrast.py',
        ('test/core/imaging/test_warm_contrast.py',),
        ('goal = np.where(is_dark, -dark, bright)', 'goal = bright'),
        ('dark = np.maximum(np.minimum(-visible,', 'dark = np.maximum(np.minimum(warm,'),
        ('np.maximum(WHITE - spread - ground, 0)', '255.0'),
        ('(area <= LARGE[1] * above.size)', '(area > 0)'),
        ('trust[(outer < -0.5) |', 'trust[(outer < -2) |'),
        ('0 < since_ns <= LONGEST_GAP_NS', 'since_ns > 0'),
        ('above[~seen] = 0', 'pass'),
        ('cv2.dilate(shown, _NEAR)', 'np.zeros_like(shown)'),
        ('excess *= view.seen', 'pass'),
        ('(image, SHOWN)', '(image, SPOT)'),
    ),
    *_group(
        'core/imaging/missing_detail.py',
        ('test/core/imaging/test_missing_detail.py',),
        ('for limit in SHOWN)), 255 - structured)', 'for limit in SHOWN)), 255 - 0 * structured)'),
        ('for limit in THERMAL)), structured)', 'for limit in THERMAL)), 255 + 0 * structured)'),
        ('lacking *= self.share', 'lacking *= 0'),
        ('free = 255 - cv2.dilate', 'free = 255 - 0 * cv2.dilate'),
        ('NOISE * max(floor - ROUNDED, 0.0)', '0'),
        ('_times(share, 255 - around)', 'share'),
    ),
    *_group(
        'core/sync/pairing.py',
        PAIRING,
        ('frame.stamp_ns + own.offset_ns', 'frame.stamp_ns - own.offset_ns'),
        ('offset_ns=thermal_ns - rgb_ns', 'offset_ns=rgb_ns - thermal_ns'),
        (
            'rgb_ns - thermal_ns > self._max_distance_ns',
            'rgb_ns - thermal_ns < self._max_distance_ns',
        ),
        ('held = thermal_ns == thermal.left_ns or', 'held ='),
        ('if verdict is StampKind.STALE:', 'if False:'),
        ('if verdict is StampKind.JUMP:', 'if False:'),
        ('if stamp_ns == self.left_ns or', 'if'),
        ('if stamp_ns < self.left_ns:', 'if stamp_ns > self.left_ns:'),
        ('if len(own.frames) > _CAPACITY:', 'if len(own.frames) > 2 * _CAPACITY:'),
        ('other.newest_ns - _PATIENCE_NS', 'other.newest_ns + _PATIENCE_NS'),
        ('self.shortest_gap_ns // 2', 'self.shortest_gap_ns * 2'),
        (
            'self._rgb = _Stream(settings.rgb_offset_ms)',
            'self._rgb = _Stream(settings.thermal_offset_ms)',
        ),
        ('(offset_ns < 0) if thermal else', '(offset_ns > 0) if thermal else'),
        ('2 * distance_ns + 2', '2 * distance_ns'),
        ('if cost < best_cost:', 'if cost > best_cost:'),
        ('>= best_cost', '< best_cost'),
        ('if held else 0', 'if not held else 0'),
    ),
    *_group(
        'core/sync/stream_health.py',
        HEALTH,
        (
            'if age_ns > lost_after_ns:\n            state',
            'if age_ns < lost_after_ns:\n            state',
        ),
        ('state = StreamState.FROZEN', 'state = StreamState.OK'),
        ('still.flat_count >= limit', 'still.flat_count > limit'),
        ('still.usual_repeats + 1', 'still.usual_repeats'),
        ('max(limit, still', 'min(limit, still'),
        ('self._good = GOOD_FRAMES - 1', 'self._good = 0'),
        ('self._good >= GOOD_FRAMES', 'self._good > GOOD_FRAMES'),
        ('max(STALE_FLOOR_S * 1e9', 'min(STALE_FLOOR_S * 1e9'),
        ('clock_ns - stamp_ns', 'stamp_ns - clock_ns'),
        ('self.not_increasing += gap_ns < 0', 'self.not_increasing += gap_ns > 0'),
        ('self._arrived_ns = min(self._arrived_ns, now_ns)', 'pass'),
        ('self.missing_share < MANY_MISSING', 'self.missing_share > MANY_MISSING'),
    ),
    *_group(
        'core/sync/source_selector.py',
        SOURCES,
        ('THERMAL if out == [RGB] else RGB', 'RGB if out == [RGB] else THERMAL'),
        ('now_ns - self._start_ns <=', 'now_ns - self._start_ns >'),
        ('waited_ns > max(', 'waited_ns < max('),
        ('stamp_ns < newest_ns - JUMP_NS', 'stamp_ns > newest_ns - JUMP_NS'),
        (') <= longest_ns]', ') > longest_ns]'),
        ('0 <= self._newest_out_ns - stamp_ns', '0 < self._newest_out_ns - stamp_ns'),
        (
            'self.sync.thermal_offset_ms - apart_ns / 1e6',
            'self.sync.thermal_offset_ms + apart_ns / 1e6',
        ),
        ('if len(out) == 2 or', 'if'),
    ),
    *_group(
        'core/alignment/homography.py',
        GEOMETRY,
        (
            'np.linalg.inv(rgb_from_thermal) if grid == RGB',
            'np.linalg.inv(rgb_from_thermal) if grid != RGB',
        ),
        ('translation(*trim_px) @ self._at', 'self._at'),
        ('1 / rgb_per_thermal if grid == RGB', '1 / rgb_per_thermal if grid != RGB'),
        (
            'live[0] / measured[0], live[1] / measured[1]',
            'measured[0] / live[0], measured[1] / live[1]',
        ),
        ('(depth[0] or 1.0) > 0).all()', '(depth[0] or 1.0) > 0).any()'),
    ),
    *_group(
        'core/imaging/gray_range.py',
        GRAY,
        ("settings.polarity == 'black_hot'", "settings.polarity != 'black_hot'"),
        (
            '_ranked(sample, settings.low_percentile / 100, 0.5',
            '_ranked(sample, settings.high_percentile / 100, 0.5',
        ),
        (
            'max(low, cold - most), min(high, hot + most)',
            'min(low, cold - most), max(high, hot + most)',
        ),
        ('settings.min_span_k / settings.scale_k[0]', 'settings.min_span_k * settings.scale_k[0]'),
        ('noise <= _MOST_NOISE', 'noise > _MOST_NOISE'),
        (
            '2 * coldest - hottest, 2 * hottest - coldest',
            '2 * hottest - coldest, 2 * coldest - hottest',
        ),
    ),
    *_group(
        'inference/fault_tolerance.py',
        FAULTS,
        ('Mode.RGB_ONLY, THERMAL: Mode.THERMAL_ONLY', 'Mode.THERMAL_ONLY, THERMAL: Mode.RGB_ONLY'),
        ('image_of, grid), ALONE[grid]', 'image_of, RGB), ALONE[grid]'),
        ('(not self.unmeasured or', '(self.unmeasured or'),
        ('self.age_s > FIRST_CALL_S', 'self.age_s < FIRST_CALL_S'),
        ('max(timeout_s, USUAL_TIMES', 'min(timeout_s, USUAL_TIMES'),
        ('if not call.unmeasured:', 'if call.unmeasured:'),
        ('len(self._usual_s) >= _REMEMBERED_KINDS', 'len(self._usual_s) > 99'),
        ('self._worked >= RECOVERED', 'self._worked > RECOVERED'),
        ('2 ** (self.failures - 1)', '2 ** self.failures'),
        ('self._worked = reason, 0', 'self._worked = reason, self._worked'),
        ('if timeout.unmeasured:', 'if not timeout.unmeasured:'),
        ('if abandoned.running:', 'if not abandoned.running:'),
        ('self.network.renew()', 'pass'),
        ('self._calls.forget_times()', 'pass'),
    ),
    *_group(
        'inference/working_size.py',
        FAULTS,
        ('self._since_step >= self._patience', 'self._since_step > self._patience'),
        ('if step < scale]', 'if step <= scale]'),
        ('(out_of_memory or self._at_this_size', '(self._at_this_size'),
        ('self._at_this_size >= FAILURES_PER_STEP', 'self._at_this_size > FAILURES_PER_STEP'),
        ('            elif self._went_up:', '            elif not self._went_up:'),
        ('min(self.asked, self.trusted.largest)', 'self.asked'),
        ('or scale != self.asked', ''),
    ),
    *_group(
        'models/diffmf.py',
        NETWORKS,
        ('B_v, C_v = B_v, C_v, B_i, C_i', 'B_v, C_v = B_i, C_i, B_v, C_v'),
        ('B_v, C_v = B_v, C_v, B_i, C_i', 'B_v, C_v = B_v, C_i, B_i, C_v'),
        ('weight_i, weight_v = weights', 'weight_v, weight_i = weights'),
        ('minus=shared_v', 'minus=shared_i'),
        ('shared_i, shared_v = boxes', 'shared_v, shared_i = boxes'),
        ('project, self.own_i(i), self.own_v(v)', 'project, self.own_v(v), self.own_i(i)'),
        ("'b h (w m) c -> m b h w c'", "'b h (m w) c -> m b h w c'"),
        ('self.stem_i(sources[0]), self.stem_v(sources[1])',
         'self.stem_i(sources[1]), self.stem_v(sources[0])'),
        ('self.weigh(torch.cat((i, v)', 'self.weigh(torch.cat((v, i)'),
        ('[self.spatial[0](i, v)]', '[self.spatial[0](v, i)]'),
        ('i, v = down_i(i), down_v(v)', 'i, v = down_v(i), down_i(v)'),
    ),
    *_group(
        'models/mixing.py',
        NETWORKS,
        ('share = torch.sigmoid(share)', 'share = 1 - torch.sigmoid(share)'),
        ('1 - share.detach()', 'share.detach()'),
        ('1 - share.detach()', '1 - share'),
        ('LARGEST_GAIN * torch.sigmoid(thermal)', 'torch.sigmoid(thermal)'),
        ('addcmul(1 - share - visible, base(vi_y))', 'addcmul(1 - share - visible, vi_y)'),
        ('8 * (ir - ground(ir))', '8 * (ground(ir) - ir)'),
        ('4 * (vi_y - surround)', '4 * (surround - vi_y)'),
        ('_largest(-_largest(-_blocks(ir)))', '-_largest(-_largest(_blocks(ir)))'),
        ('share, visible, thermal, added =', 'share, thermal, visible, added ='),
    ),
    *_group(
        'models/kernels/composed.py',
        SCANS,
        ('raster.flip(0), columns.flip(0)])', 'columns.flip(0), raster.flip(0)])'),
        ('[raster, columns, len(raster)', '[columns, raster, len(raster)'),
        ('there + back.flip(1)', 'there + back'),
        ('delta = delta + delta_bias', 'delta = delta - delta_bias'),
    ),
]


def outcome(mutant: Mutant) -> str:
    """Return 'killed', 'survived', or 'not applied' where the package has no such line."""
    with tempfile.TemporaryDirectory() as folder:
        _copy_into(Path(folder))
        file = Path(folder) / 'diffmf_ros' / mutant.file
        text = file.read_text(encoding='utf-8')
        if mutant.old not in text:
            return 'not applied'
        file.write_text(text.replace(mutant.old, mutant.new, 1), encoding='utf-8')
        return {0: 'survived', 1: 'killed'}.get(
            code := _tested(Path(folder), mutant.tests), f'pytest ended with {code}')


def _tested(folder: Path, tests: tuple[str, ...]) -> int:
    """Return how pytest ends in a fork of this process, which has loaded the large libraries."""
    if pid := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    signal.alarm(TIMEOUT_S)
    os.chdir(folder)
    for stream in (1, 2):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
    sys.path.insert(0, str(folder))
    os.environ['PYTHONPATH'] = str(folder)
    code = 3
    try:
        code = pytest.main(['-qx', '-m', 'not dds', '-p', 'no:cacheprovider', *tests])
    finally:
        os._exit(code)


def _copy_into(folder: Path) -> None:
    for name in ('diffmf_ros', 'test', 'config'):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns('weights'))
    (folder / 'diffmf_ros' / 'weights').symlink_to(ROOT / 'diffmf_ros' / 'weights')
    shutil.copy(ROOT / 'pyproject.toml', folder)


def main() -> int:
    """Print what became of every mutant; return 1 unless at least 90 % were killed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--only', default='', help='mutants of files whose path has this word')
    parser.add_argument('--list', action='store_true', help='print them, and run nothing')
    options = parser.parse_args()
    chosen = [mutant for mutant in MUTANTS if options.only in mutant.file]
    if not options.list:
        for library in LIBRARIES:
            importlib.import_module(library)
    for tests in [] if options.list else sorted({mutant.tests for mutant in chosen}):
        unchanged = outcome(Mutant('__init__.py', '', '', tests))
        if unchanged != 'survived':
            sys.exit(f'{" ".join(tests)} do not pass on the unchanged package: {unchanged}')
    killed = 0
    for mutant in chosen:
        result = 'listed' if options.list else outcome(mutant)
        killed += result == 'killed'
        print(f'{result}: {mutant.file}: {mutant.old!r} -> {mutant.new!r}', flush=True)
    print(f'{killed} of {len(chosen)} killed')
    return 0 if options.list or killed >= 0.9 * len(chosen) else 1


if __name__ == '__main__':
    sys.exit(main())
