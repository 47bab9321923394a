# SPDX-License-Identifier: Apache-2.0
"""`diffmf bench --shell`: what is measured, how it is judged, and the whole of it in small.

No time is asserted.
"""

import importlib.util
import json
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from diffmf_ros.cli import bench
from diffmf_ros.core.frames import DiffmfError
from diffmf_ros.tools.bench import shell_bench
from diffmf_ros.tools.bench.shell_bench import OURS, USUAL, Cost, Overload, ShellReport
from diffmf_ros.tools.machine import Machine

MACHINE = Machine('a processor', 2, ('avx2',), 8.0, '', 'an OS')
needs_ros = pytest.mark.skipif(importlib.util.find_spec('rclpy') is None,
                               reason='rclpy is not installed')


def cost(*, pair=(1.0, 1.0, 1.0, 1.0), align=(2.0, 2.0, 2.0, 9.0)):
    """Made-up samples of two stages of four pairs."""
    return Cost({'pair': list(pair), 'align': list(align)}, [4.0, 5.0, 6.0, 7.0])


def overload(ages_ms, *, rate_hz=20.0, compute_ms=50.0):
    """Images of these ages that came at an even rate."""
    return Overload(compute_ms, 3.0, 1, [i / rate_hz for i in range(len(ages_ms))], list(ages_ms))


def report(*, costs=None, overloads=None, notes=()):
    return ShellReport(MACHINE, 0.3, (640, 512), {'numpy': '2'}, costs or {OURS: cost()},
                       overloads or {OURS: overload([80.0] * 30)}, notes)


def met(**parts):
    """Which bars a report with these parts meets."""
    return {bar.what: bar.met for bar in report(**parts).bars()}


def test_total_adds_stages():
    """The total adds the stages of each pair."""
    assert cost().quantile('total', 0.5) == 3.0
    assert cost().quantile('total', 1.0) == 10.0
    assert cost().quantile('align', 0.5) == 2.0
    assert cost().quantile('cpu', 0.5) == 5.5


def test_growth_is_last_over_first():
    """Growth is the last third over the first."""
    # given ages that rise by a millisecond an image, with an outlier
    ages = [50.0 + i for i in range(30)]
    ages[3] = 1000.0
    # then the medians are 55.5 (the outlier pushes it from 54.5) and 74.5
    assert overload(ages).growth_ms == pytest.approx(74.5 - 55.5)
    assert overload([80.0] * 30).growth_ms == 0


def test_throughput_compares_network_time():
    """Throughput compares with the time of the network."""
    measured = overload([80.0] * 39, rate_hz=19.0)
    assert measured.rate_hz == pytest.approx(19.0)
    assert measured.throughput == pytest.approx(0.95)


def test_good_node_meets_every_bar():
    """A node that is as asked meets every bar."""
    assert met() == {'cost p50': True, 'cost p99': True, 'age p99': True,
                     'growth of the age': True, 'throughput': True}


@pytest.mark.parametrize('missed, parts', [
    ('cost p50', {'costs': {OURS: cost(align=(4.1, 4.1, 4.1, 4.1))}}),
    ('cost p99', {'costs': {OURS: cost(align=(2.0, 2.0, 2.0, 10.0))}}),
    ('age p99', {'overloads': {OURS: overload([101.0] * 30)}}),
    ('growth of the age', {'overloads': {OURS: overload([80.0] * 15 + [86.0] * 15)}}),
    ('throughput', {'overloads': {OURS: overload([80.0] * 30, rate_hz=18.9)}})])
def test_each_bar_can_be_missed_alone(missed, parts):
    assert [what for what, ok in met(**parts).items() if not ok] == [missed]


def test_too_few_images_say_nothing():
    with pytest.raises(DiffmfError, match='got 3; let it last longer'):
        overload([80.0] * 3)


def test_json_has_bars_and_samples():
    """JSON has bars quantiles and every sample."""
    whole = json.loads(report(costs={OURS: cost(), USUAL: cost()}, notes=('a note',)).as_json())

    assert whole['format'] == 'diffmf_ros bench shell 1'
    assert whole['host']['cpu'] == 'a processor' and whole['host']['load_before'] == 0.3
    assert whole['size'] == [640, 512] and whole['notes'] == ['a note']
    assert whole['cost'][OURS]['total_ms'] == {'p50': 3.0, 'p99': pytest.approx(9.79)}
    assert whole['cost'][OURS]['cpu_ms'] == {'p50': 5.5, 'p99': pytest.approx(6.97),
                                             'samples': [4.0, 5.0, 6.0, 7.0]}
    assert whole['cost'][USUAL]['stages_ms']['align']['samples'] == [2.0, 2.0, 2.0, 9.0]
    assert whole['overload'][OURS]['age_p50_ms'] == 80 and len(
        whole['overload'][OURS]['age_ms']) == 30
    assert whole['bars'][0] == {'what': 'cost p50', 'value': 3.0, 'limit': 5.0, 'unit': 'ms',
                                'at_least': False, 'met': True}


def test_tables_show_missed_bar(capsys):
    """Tables show both ways and a missed bar."""
    from rich.console import Console

    slow = {OURS: overload([120.0] * 30), USUAL: overload([400.0] * 30)}
    costs = {OURS: cost(), USUAL: Cost({'align': [1.0]}, [8.0])}
    bench.show_shell(Console(width=180), report(costs=costs, overloads=slow, notes=('a note',)))

    shown = capsys.readouterr().out
    assert all(text in shown for text in ('4 pairs of 640x512', '3.00 / 9.79', '1.00 / 1.00',
                                          '8.00 / 8.00'))
    assert '400.0 / 400.0' in shown and 'note: a note' in shown
    missed, = (line for line in shown.splitlines() if 'age p99' in line)
    assert '120.0 ms' in missed and 'at most 100 ms' in missed and 'no' in missed
    assert 'a processor, 2 cores; 0.3 other processes busy before' in shown


def test_missing_ros_names_install(monkeypatch):
    """Without ROS it says what to install."""
    monkeypatch.setattr('diffmf_ros.tools.doctor.ros.try_code',
                        lambda code: SimpleNamespace(reason='rclpy is not installed'))
    with pytest.raises(DiffmfError, match=r'pip install "ros-rclpy'):
        shell_bench.run(size=(64, 48), pairs=1, compute_ms=20, overload_s=1)


def test_conversions_without_message_filters(monkeypatch):
    """Without message_filters the conversions are compared."""
    # given probes that report made-up samples, and no message_filters
    asked = []

    def run_probe(module, *arguments, timeout_s):
        asked.append((module, '--usual' in arguments))
        if module == 'shell':
            return {'stages_ms': {OURS: dict(cost().stages_ms), USUAL: {'align': [1.0]}},
                    'cpu_ms': {OURS: [4.0] * 4, USUAL: [1.0]}, 'message_filters': False,
                    'versions': {}}
        return {'times_capacity': 3.0, 'not_fused': 0, 'received_s': [i / 20 for i in range(30)],
                'age_ms': [80.0] * 30}

    monkeypatch.setattr(shell_bench, 'run_probe', run_probe)
    monkeypatch.setattr(shell_bench, 'require_rclpy', lambda purpose: None)

    # when all is measured
    measured = shell_bench.run(size=(64, 48), pairs=4, compute_ms=50, overload_s=1)

    # then the usual node was not overloaded, and a note says why
    assert asked == [('shell', False), ('overload', False)]
    assert list(measured.costs) == [OURS, USUAL] and list(measured.overloads) == [OURS]
    assert 'message_filters is not installed' in measured.notes[0]


def test_a_probe_that_fails_says_why():
    with pytest.raises(DiffmfError,
                       match='no_such_probe could not measure:(.|\n)*No module named'):
        shell_bench.run_probe('no_such_probe', timeout_s=60)


@pytest.mark.parametrize('arguments, complaint', [
    (('--shell', '--preset', 'nano'), 'not with --shell: --preset'),
    (('--compute-ms', 20), 'only with --shell: --compute-ms')])
def test_ignored_options_are_refused(arguments, complaint):
    """Options that would be ignored are refused."""
    done = subprocess.run([sys.executable, '-m', 'diffmf_ros.cli.main', 'bench',
                           *map(str, arguments)],
                          capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert complaint in done.stderr


@needs_ros
def test_usual_way_gives_same_picture():
    """The usual way with the same homography gives the same picture."""
    from diffmf_ros.inference.prepare import StageTimer
    from diffmf_ros.tools.bench.probes.shared import UsualFusion, homography, moving_images

    # given a network that returns what it gets of thermal, and equal pairs
    (rgb, *_), (thermal, *_) = moving_images((64, 48), seed=0)
    fusion = UsualFusion(homography((64, 48)), lambda warped, y: y)
    stage = StageTimer()

    # when the usual way passes luminance through
    image, info = fusion(rgb, thermal, stage)

    # then the image is the RGB image but for the rounding of the color conversion, under its
    # header
    before, after = (np.frombuffer(message.data, np.uint8).astype(int) for message in (rgb, image))
    assert np.abs(before - after).max() <= 3
    assert image.header == info.header == rgb.header
    assert list(stage.timings_ms) == ['decode', 'align', 'color', 'network', 'messages']


@needs_ros
def test_moving_images_differ():
    """Moving images differ from one to the next."""
    from diffmf_ros.tools.bench.probes.shared import FRAMES, moving_images

    for stream, encoding in zip(moving_images((64, 48), seed=0), ('bgr8', 'mono16')):
        assert {(message.width, message.height, message.encoding)
                for message in stream} == {(64, 48, encoding)}
        assert len({bytes(message.data) for message in stream}) == FRAMES


@needs_ros
def test_fixed_time_network_full_pipeline(tmp_path):
    """The network of fixed time fuses through the whole pipeline."""
    from diffmf_ros.core.frames import RGB, THERMAL, Mode, Pair
    from diffmf_ros.core.settings import DEFAULTS, with_changes
    from diffmf_ros.ros.messages import to_frame
    from diffmf_ros.tools.bench.probes.shared import moving_images, timed_pipeline, write_alignment

    (rgb, *_), (thermal, *_) = moving_images((64, 48), seed=0)
    settings = with_changes(DEFAULTS, {'model': 'classical',
                                       'alignment.file': str(write_alignment(tmp_path, (64, 48)))})
    pipeline = timed_pipeline(settings, watchdog=True, compute_ms=5.0)
    result = pipeline.fuse(Pair(to_frame(rgb, RGB, arrival_ns=0),
                                to_frame(thermal, THERMAL, arrival_ns=0), 0))
    pipeline.close()

    assert (result.mode, result.warnings) == (Mode.FUSED, ())
    assert result.timings_ms['network'] >= 5.0
    pixels = np.frombuffer(rgb.data, np.uint8).reshape(result.pixels.shape).astype(int)
    assert np.abs(result.pixels - pixels).max() <= 3


@needs_ros
def test_everything_is_measured_over_real_dds(domain, tmp_path):
    # when the command runs with small images, for a short time
    done = subprocess.run(
        [sys.executable, '-m', 'diffmf_ros.cli.main', 'bench', '--shell', '--size', '64x48',
         '--frames', '20',
         '--compute-ms', '20', '--overload-s', '3', '--json', tmp_path / 'shell.json'],
        capture_output=True, text=True, timeout=300, check=False)

    # then both parts have their samples, and a verdict
    assert done.returncode == 0, done.stderr
    whole = json.loads((tmp_path / 'shell.json').read_text())
    stages = whole['cost'][OURS]['stages_ms']
    assert {'decode', 'pair', 'align', 'color', 'messages'} <= set(stages)
    assert all(len(stage['samples']) == 20 and min(stage['samples']) > 0
               for stage in stages.values())
    measured = whole['overload'][OURS]
    # The cameras send faster than the network is, and no image is younger than it takes to make
    # one.
    assert measured['times_capacity'] > 1 and measured['throughput'] <= 1
    assert len(measured['age_ms']) == len(measured['received_s']) and min(measured['age_ms']) > 20
    assert [bar['what'] for bar in whole['bars']] == [
        'cost p50', 'cost p99', 'age p99', 'growth of the age', 'throughput']
    with_usual = importlib.util.find_spec('message_filters') is not None
    assert set(whole['overload']) == ({OURS, USUAL} if with_usual else {OURS})
    assert 'overload: a network of 20 ms' in done.stdout
