# SPDX-License-Identifier: Apache-2.0
"""`diffmf bench --standard`: what is computed, the files, and the job itself in small."""

import json
import runpy
from pathlib import Path

import pytest
from typer.testing import CliRunner

from diffmf_ros.cli.main import application
from diffmf_ros.core.frames import DiffmfError
from diffmf_ros.tools.bench import shell_bench, standard
from diffmf_ros.tools.bench.standard import FORMAT, Result, Run, StandardReport
from diffmf_ros.tools.machine import Machine

ROOT = Path(__file__).resolve().parents[3]
MS = 1_000_000


def run(latencies_ms, *, period_ms=100, lost=0, cpu_s=0.5):
    """Pairs at an even rate, the first of which are received after these latencies."""
    sent = [number * period_ms * MS for number in range(len(latencies_ms) + lost)]
    received = [(stamp, stamp + int(latency * MS)) for stamp, latency in zip(sent, latencies_ms)]
    return Run(
        1e3 / period_ms,
        sent,
        received,
        {'FUSED': len(received)},
        cpu_s=cpu_s,
        other_s=0.25,
        wall_s=len(sent) * period_ms / 1e3,
    )


def result(*runs):
    return Result('diffmf', 10.0, 2.5, 400.0, runs)


def report(*results):
    machine = Machine('a <processor>', 4, ('avx2',), 8.0, '', 'an OS')
    return StandardReport(machine, 'cpu', '2030-01-02', {'numpy': '2.0'}, results)


def test_metrics_are_those_of_all_repeats():
    # Given ten pairs of which eight come after 20 and 30 ms in turn, and ten that all come after
    # 40
    metrics = result(run([20, 30] * 4, lost=2), run([40] * 10, cpu_s=1.5)).metrics()

    assert (metrics['NUM_FRAMES_SENT'], metrics['NUM_MISSED_FRAMES']) == (20, 2)
    assert (metrics['MIN_LATENCY'], metrics['P50_LATENCY'], metrics['MAX_LATENCY']) == (20, 40, 40)
    assert metrics['MEAN_LATENCY'] == pytest.approx((4 * 20 + 4 * 30 + 10 * 40) / 18)
    assert (metrics['MIN_THROUGHPUT'], metrics['MEAN_THROUGHPUT'], metrics['MAX_THROUGHPUT']) == (
        8,
        9,
        10,
    )
    # intervals of 110 and 90 ms in turn, and of 100 ms
    assert metrics['MEAN_FRAME_RATE'] == pytest.approx(1e3 * 16 / (4 * 110 + 3 * 90 + 9 * 100))
    assert (metrics['MIN_JITTER'], metrics['MAX_JITTER']) == (0, 20)
    assert metrics['MEAN_JITTER'] == pytest.approx(6 * 20 / (6 + 8))
    assert metrics['MEAN_CPU_CORES'] == pytest.approx(1.0) and metrics['OTHER_CPU_CORES'] == 0.25


def test_too_few_images_are_an_error():
    with pytest.raises(DiffmfError, match='at least 3 images in 1 s, got 2; is the machine busy'):
        result(run([20, 20], lost=8)).metrics()


def test_file_is_complete_and_anonymous(tmp_path):
    """The file says what a table needs and not whose machine it is."""
    import platform

    (tmp_path / 'm.json').write_text(report(result(run([20] * 10))).as_json())

    (row,) = standard.rows(standard.read_report(tmp_path / 'm.json'))

    assert row == (
        '`diffmf`',
        '10.0',
        '10.0 (10.0 to 10.0)',
        '20 / 20',
        '0',
        '0.50',
        '0.25',
        '2.5',
        '400',
    )
    content = json.loads((tmp_path / 'm.json').read_text())
    assert (
        'name' not in content['host']
        and f'"{platform.node()}"' not in (tmp_path / 'm.json').read_text()
    )


def test_page_loads_nothing_and_escapes():
    """The page loads nothing and escapes what others wrote."""
    page = standard.page(report(result(run([20] * 10))).as_dict())

    assert 'a &lt;processor&gt;' in page and '<processor>' not in page
    assert 'src=' not in page and 'http' not in page and 'STD_DEV_JITTER' in page


@pytest.mark.parametrize('text', ['', '[]', '{"format": "other"}', f'{{"format": "{FORMAT}"}}'])
def test_other_files_are_refused(tmp_path, text):
    (tmp_path / 'x.json').write_text(text)

    with pytest.raises(DiffmfError, match='x.json is no file of'):
        standard.read_report(tmp_path / 'x.json')


def test_machines_page_from_files():
    """The page of machines is made from their files."""
    module = runpy.run_path(str(ROOT / 'docs' / 'machines_page.py'))
    page = (ROOT / 'docs' / 'machines.md').read_text(encoding='utf-8')

    assert module['with_tables'](page) == page, 'run: python docs/machines_page.py'
    assert page.count('| `diffmf` |') >= 2


@pytest.mark.parametrize(
    'words, said',
    [
        (['--page', 'x.html'], 'only with --standard'),
        (['--standard', '--frames', '3'], 'not with --standard: --frames'),
        (['--standard', '--shell'], '--standard'),
    ],
)
def test_conflicting_options_are_refused(words, said):
    """Options that do not go together are refused."""
    done = CliRunner().invoke(
        application(), ['bench', *words], env={'COLUMNS': '200', 'NO_COLOR': '1'}
    )

    assert done.exit_code == 2 and said in done.output


def test_the_job_in_small(domain):
    pytest.importorskip('rclpy', reason='rclpy is not installed')

    measured = shell_bench.run_probe(
        'live',
        '--model',
        'classical',
        '--size',
        '64x48',
        '--seconds',
        1,
        '--rates',
        10,
        20,
        timeout_s=60,
    )

    runs = [Run(**one) for one in measured['runs']]
    assert [len(one.sent_ns) for one in runs] == [10, 20] and measured['first_image_s'] > 0
    for one in runs:
        assert len(one.received) >= 0.6 * len(one.sent_ns) and set(one.modes) <= {
            'CLASSICAL',
            'RGB_ONLY',
        }
        assert (one.latencies_ms > 0).all() and one.latencies_ms.max() < 2000
        assert 0 < one.cpu_s < 2 * one.wall_s and 1 <= one.wall_s < 2
