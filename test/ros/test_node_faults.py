# SPDX-License-Identifier: Apache-2.0
"""Bad input: each kind is counted under its own reason, and the next good frame is fused."""

import math
import shutil
import struct
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import Cameras
from rclpy.parameter import Parameter
from sensor_msgs.msg import CameraInfo

from diffmf_ros.core.frames import Issue, Level
from diffmf_ros.inference.pipeline import FusionPipeline
from diffmf_ros.ros import session
from diffmf_ros.ros.messages import stamp_ns

NODE = 'diffmf_ros.ros.fusion_node'
# The clock of the system as a process sees it, ahead by the seconds in a file.
CLOCK = r"""
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

extern "C" int clock_gettime(clockid_t clock, timespec* now) {
  static auto real = (int (*)(clockid_t, timespec*))dlsym(RTLD_NEXT, "clock_gettime");
  static volatile long* ahead_s = (long*)mmap(
      nullptr, sizeof(long), PROT_READ, MAP_SHARED, open(getenv("CLOCK_AHEAD"), O_RDONLY), 0);
  int failed = real(clock, now);
  if (clock == CLOCK_REALTIME) now->tv_sec += *ahead_s;
  return failed;
}
"""


@pytest.mark.parametrize('reason, broken', [
    ('short_buffer', {'height': 49}),
    ('step_too_small', {'step': 64 * 3 - 1}),
    ('unknown_encoding', {'encoding': 'yuv9'}),
    ('zero_size', {'width': 0}),
])
def test_bad_rgb_counted_next_fused(cameras, reason, broken):
    """A bad RGB image is counted and the next one is fused."""
    cameras.fuse_one()

    cameras.next()
    cameras.rgb(**broken)
    bad_ns = cameras.stamp_ns
    cameras.fuse_one()
    cameras.peer.wait_for(lambda: cameras.values().get(f'dropped.{reason}') == '1',
                          f'one {reason}')

    assert bad_ns not in [stamp_ns(m.header.stamp) for m in cameras.fused]
    values = cameras.values()
    counted = {key for key in values if key.startswith('dropped.')}
    assert counted - {'dropped.unpaired', 'dropped.overtaken'} == {f'dropped.{reason}'}
    assert values['last_error'].startswith('rgb frame refused: ')
    report = next(r.status[0] for r in cameras.reports
                  if f'1 dropped: {reason}' in r.status[0].message)
    assert report.level == b'\x01'


def test_nan_thermal_counted_next_fused(cameras):
    """A thermal image of NaN is counted and the next one is fused."""
    cameras.fuse_one()

    cameras.next()
    cameras.rgb()
    cameras.thermal(np.full((24, 32), np.nan, np.float32), '32FC1')
    bad_ns = cameras.stamp_ns
    cameras.peer.wait_for(lambda: cameras.values().get('dropped.no_finite_value') == '1',
                          'one NaN image')
    cameras.fuse_one()

    assert bad_ns not in [stamp_ns(m.header.stamp) for m in cameras.fused]
    assert 'NaN' in cameras.values()['last_error']


def test_12_bit_rgb_is_fused(cameras):
    """An RGB camera of 12 bits is fused."""
    noise = np.random.default_rng(1)
    for _ in range(3):
        cameras.next()
        cameras.rgb(noise.integers(800, 4000, (48, 64), dtype=np.uint16), encoding='mono16')
        cameras.thermal(noise.integers(7000, 9000, (24, 32), dtype=np.uint16))
        image = cameras.peer.wait_for(lambda: cameras.of(cameras.fused), 'a fused image')[0]

    assert (image.width, image.height, cameras.state()['mode']) == (64, 48, 'CLASSICAL')


def test_unfusable_rgb_leaves_thermal(make_cameras):
    """An RGB camera that cannot be fused leaves thermal alone."""
    cameras = make_cameras(health__source_timeout_s=0.3)

    def thermal_alone():
        cameras.next()
        noise = np.random.default_rng(cameras.stamp_ns)
        cameras.rgb(noise.random((48, 64), dtype=np.float32), encoding='32FC1')
        cameras.thermal(noise.integers(7000, 9000, (24, 32), dtype=np.uint16))
        return [state for state in cameras.states if 'THERMAL_ONLY' in state.status[0].message or
                any(item.value == 'THERMAL_ONLY' for item in state.status[0].values)]

    cameras.peer.wait_for(thermal_alone, 'thermal alone')
    cameras.peer.wait_for(lambda: 'got 32FC1' in cameras.values().get('last_error', ''),
                          'the reason')


def test_unforeseen_failure_counted_next_fused(cameras, monkeypatch):
    """An unforeseen failure of one pair is counted and the next one is fused."""
    cameras.fuse_one()
    pipeline, calls = cameras.node._pipeline, []
    begin = pipeline.begin

    def fail_once(pair, **options):
        calls.append(pair)
        if len(calls) == 1:
            raise ZeroDivisionError('of the third kind')
        return begin(pair, **options)

    monkeypatch.setattr(pipeline, 'begin', fail_once)
    cameras.pair()
    cameras.peer.wait_for(lambda: calls, 'the failure')
    cameras.fuse_one()
    cameras.peer.wait_for(lambda: cameras.values().get('dropped.failed') == '1', 'one failure')

    assert 'of the third kind' in cameras.values()['last_error']
    assert len(calls) == 2


def test_pipeline_issue_is_an_error(cameras, monkeypatch, capfd):
    """An issue of the pipeline is an error and fusion goes on."""
    problem = 'scan backend triton returned NaN on the golden inputs and is not used'
    monkeypatch.setattr(FusionPipeline, 'issues',
                        (Issue('network_degraded', problem, level=Level.ERROR),))

    cameras.peer.wait_for(lambda: problem in cameras.message(), 'the problem')

    assert cameras.reports[-1].status[0].level == b'\x02'
    assert cameras.fuse_one().width == 64
    count = len(cameras.reports)
    cameras.peer.wait_for(lambda: len(cameras.reports) > count, 'another report')
    logged = [line for line in capfd.readouterr().err.splitlines() if problem in line]
    assert len(logged) == 1 and '[ERROR]' in logged[0]


def test_missing_calibration_marks_output(cameras):
    """Without calibration the output is marked uncalibrated."""
    image = cameras.fuse_one()
    cameras.peer.wait_for(lambda: cameras.infos, 'a camera info')

    info = cameras.infos[0]
    assert info.header == image.header
    assert (info.width, info.height) == (64, 48) and not info.k.any()
    cameras.peer.wait_for(lambda: 'nothing received on rgb/camera_info' in cameras.message(),
                          'a warning')


def test_other_aspect_calibration_not_passed(cameras):
    """A calibration of another shape is not passed on."""
    publisher = cameras.publisher(CameraInfo, 'rgb/camera_info')
    publisher.publish(CameraInfo(width=128, height=128,
                                 k=[100.0, 0.0, 64.0, 0.0, 100.0, 64.0, 0.0, 0.0, 1.0]))

    def another_info():
        cameras.fuse_one()
        return ('rgb/camera_info: the calibration is for 128x128, the image has '
                '64x48' in cameras.message())

    cameras.peer.wait_for(another_info, 'a warning')
    assert (cameras.infos[-1].width, cameras.infos[-1].height) == (64, 48)
    assert not cameras.infos[-1].k.any()


GOOD_K = [100.0, 0.0, 32.0, 0.0, 100.0, 24.0, 0.0, 0.0, 1.0]
INFOS = {
    'nan': ((64, 48, [math.nan, *GOOD_K[1:]]), 'rgb/camera_info is not usable: expected 3 rows'),
    'negative': ((64, 48, [-100.0, *GOOD_K[1:]]), 'rgb/camera_info is not usable: expected k'),
    'empty': ((0, 0, GOOD_K), 'rgb/camera_info is not usable: expected a size'),
    'other shape': ((128, 128, GOOD_K), 'the calibration is for 128x128, the image has 64x48'),
    'none': ((64, 48, [0.0] * 9), 'rgb is not calibrated, by its camera info'),
}


@pytest.mark.parametrize('case', INFOS)
def test_bad_calibration_is_logged_once(cameras, capfd, case):
    """A camera info that cannot be used is said in the log, and again only when it is another."""
    (width, height, k), said = INFOS[case]
    publisher = cameras.publisher(CameraInfo, 'rgb/camera_info')
    info = CameraInfo(width=width, height=height, k=k)
    logged = []

    def log():
        logged.append(capfd.readouterr().err)
        return ''.join(logged)

    publisher.publish(info)
    cameras.fuse_until(lambda image: said in log(), said)
    publisher.publish(info)
    for _ in range(3):
        cameras.fuse_one()
    seen = len(cameras.reports)
    cameras.peer.wait_for(lambda: len(cameras.reports) > seen + 2, 'more reports')

    assert log().count(said) == 1


def test_clock_is_given_time_from_when_it_is_asked_for(cameras, monkeypatch):
    """Simulated time that is switched on later is missed 3 s after that, not after the start."""
    said = 'use_sim_time is true, but /clock has not come for 3 s'
    asked_s = time.monotonic() + 10  # as on a node that has run for 10 s
    now_s = [asked_s]
    monkeypatch.setattr(session.time, 'monotonic', lambda: now_s[0])
    assert cameras.node._session._no_clock() is None
    cameras.node.set_parameters([Parameter('use_sim_time', value=True)])

    for now_s[0], complains in ((asked_s + 2.9, False), (asked_s + 3.1, True)):
        issue = cameras.node._session._no_clock()
        assert (issue is not None and said in issue.text) == complains


def test_missing_library_names_remedy(start, peer, monkeypatch):
    """A node without a library of its network fuses classically, and its log says what to install.
    """
    monkeypatch.setenv('PYTHONPATH', str(Path(__file__).parents[1]), prepend=':')
    node = start('dying_node', 'library')

    peer.wait_for(lambda: 'active:' in node.output, 'the node')

    assert 'configured: classical (diffmf nano needs einops) on cpu' in node.output
    warned = [line for line in node.output.splitlines() if '[WARN]' in line]
    assert 'needs einops' in warned[0] and 'pip install' in warned[0]
    assert node.stop() == 0


def test_missing_weights_fail_configure(start, tmp_path):
    """A missing weights file fails configure with a message."""
    pytest.importorskip('torch', reason='without torch the node fuses classically and needs no '
                        'weights')
    path = tmp_path / 'missing.safetensors'

    node = start(NODE, '--ros-args', '-p', f'weights:={path}')

    assert node.wait() == 1
    assert node.output.count('cannot configure') == 1 and str(path) in node.output
    assert 'Traceback' not in node.output


@pytest.mark.skipif(shutil.which('g++') is None, reason='no compiler')
def test_steps_of_system_clock_pass(start, peer, monkeypatch, tmp_path):
    """The clock of the system is set under the node, an hour ahead and ten seconds back: it goes
    on to fuse and to report, and what it reports is dated anew."""
    # Given a node on a host with a clock of its own
    source, library, ahead = tmp_path / 'clock.cpp', tmp_path / 'clock.so', tmp_path / 'ahead'
    source.write_text(CLOCK)
    subprocess.run(['g++', '-shared', '-fPIC', '-o', library, source, '-ldl'], check=True)
    ahead.write_bytes(struct.pack('q', 0))
    with monkeypatch.context() as host:
        host.setenv('LD_PRELOAD', str(library))
        host.setenv('CLOCK_AHEAD', str(ahead))
        node = start(NODE, '--ros-args', '-p', 'model:=classical', '-p',
                     'qos.reliability:=reliable')
    cameras = Cameras(peer)
    cameras.fuse_one()

    for step_s in (3600, -10):
        with ahead.open('r+b') as file:  # in place: the node has mapped it
            file.write(struct.pack('q', step_s))
        del cameras.reports[:]

        # Then pairs are fused, and reports come with the new time
        for _ in range(3):
            cameras.fuse_one()
        peer.wait_for(lambda step_s=step_s: any(
            abs(stamp_ns(report.header.stamp) / 1e9 - time.time() - step_s) < 5
            for report in cameras.reports), 'a report of that time')
        assert cameras.state()['mode'] == 'CLASSICAL'
    assert node.process.poll() is None and node.stop() == 0
