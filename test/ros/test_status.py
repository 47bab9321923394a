# SPDX-License-Identifier: Apache-2.0
"""How the state of the fusion and of both cameras is reported."""

from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticStatus

from diffmf_ros.core.frames import RGB, THERMAL, Frame, FusionResult, Issue, Level, Mode
from diffmf_ros.core.settings import HealthSettings
from diffmf_ros.core.sync.source_selector import SourceSelector
from diffmf_ros.core.sync.stream_health import StreamState
from diffmf_ros.ros import status
from diffmf_ros.ros.status import (
    Counters,
    DiagnosticsPublisher,
    Snapshot,
    greenwave_values,
    judge,
    status_message,
)

OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR
SECOND = 1_000_000_000
EPOCH_NS = 1_700_000_000 * SECOND
SCENES = np.random.default_rng(3).integers(7000, 9000, (7, 12, 16), dtype=np.uint16)
BEFORE = Snapshot(counted=Counter(rgb_in=30, thermal_in=30, pairs=30, fused=30))


def after(*, fused=30, dropped=None, **other):
    counted = Counter(BEFORE.counted) + Counter(rgb_in=30, thermal_in=30, fused=fused)
    return Snapshot(counted=counted, dropped=Counter(dropped or {}), **other)


def warnings(*texts):
    return [Issue('some_code', text) for text in texts]


def errors(*texts):
    return [Issue('other_code', text, level=Level.ERROR) for text in texts]


def test_fusing_is_ok():
    assert judge(after(), BEFORE, []) == (OK, 'fusing')


def test_unequal_rates_are_ok():
    """Unequal rates and overtaken pairs are ok."""
    totals = after(dropped={'unpaired': 21, 'overtaken': 3, 'already_out': 2})

    assert judge(totals, BEFORE, []) == (OK, 'fusing')


def test_fallback_warns_none_left_errors():
    """A fallback in use is a warning and none left is an error."""
    assert judge(after(), BEFORE, [],
                 reason='thermal is LOST: rgb alone') == (WARN, 'thermal is LOST: rgb alone')
    assert judge(after(fused=0), BEFORE, [], reason='both are LOST',
                 alarm=True) == (ERROR, 'both are LOST')


def test_bad_frame_warns_until_over():
    """A bad frame and a complaint are warnings until they stop."""
    totals = after(dropped={'short_buffer': 2})

    level, message = judge(totals, BEFORE, warnings('no calibration'))

    assert (level, message) == (WARN, '2 dropped: short_buffer; no calibration')
    later = Snapshot(counted=totals.counted + totals.counted, dropped=totals.dropped)
    assert judge(later, totals, [])[0] == OK


def test_failures_without_fusion_are_error():
    """Failures are an error when nothing is fused and else a warning."""
    failing = after(fused=0, dropped={'failed': 30}, last_error='out of memory')

    assert judge(failing, BEFORE, []) == (ERROR, 'fusion fails: out of memory')
    assert judge(after(dropped={'failed': 1}), BEFORE, []) == (WARN, '1 dropped: failed')


def test_issue_is_error_while_fusing():
    """An issue is an error while fusion goes on."""
    problems = ('scan triton returned NaN and is not used', 'no CUDA graph')

    level, message = judge(after(), BEFORE, errors(*problems))
    assert (level, message) == (ERROR, '; '.join(problems))

    level, message = judge(after(), BEFORE, [*warnings('no calibration'), *errors(problems[0])],
                           reason='no thermal frames: waiting')
    assert level == ERROR
    assert message == f'{problems[0]}; no thermal frames: waiting; no calibration'


def test_failing_fusion_named_first():
    """Failing fusion is named before an issue."""
    failing = after(fused=0, dropped={'failed': 30}, last_error='out of memory')

    level, message = judge(failing, BEFORE, errors('no CUDA graph'))

    assert (level, message) == (ERROR, 'fusion fails: out of memory; no CUDA graph')


def test_the_tally_adds_up():
    tally = Counters()
    for latency_ms in (10.0, 20.0, 30.0):
        tally.count('rgb_in')
        tally.fused(latency_ms=latency_ms, mode='FUSED', warnings=())
    tally.fused(latency_ms=20.0, mode='RGB_ONLY', warnings=())
    tally.drop('short_buffer', error='too short', stream=RGB)
    tally.drop('overtaken')

    totals = tally.totals({'unpaired': 4})

    assert totals.counted == {'rgb_in': 3, 'fused': 4}
    assert totals.modes == {'FUSED': 3, 'RGB_ONLY': 1}
    assert totals.dropped == {'short_buffer': 1, 'overtaken': 1, 'unpaired': 4}
    assert totals.refused == {RGB: {'short_buffer': 1}}
    assert (totals.latency_p50_ms, totals.mode,
            totals.last_error) == (20.0, 'RGB_ONLY', 'too short')


def test_newest_image_age_goes_on(monkeypatch):
    """The age of the newest image goes on."""
    now_s = [100.0]
    monkeypatch.setattr(status, 'time', SimpleNamespace(monotonic=lambda: now_s[0]))
    tally = Counters()
    assert np.isnan(tally.totals({}).age_ms)

    tally.fused(latency_ms=40.0, mode='FUSED', warnings=())
    now_s[0] += 0.5

    assert tally.totals({}).age_ms == pytest.approx(540.0)


class FakeNode:
    """What a DiagnosticsPublisher needs of a node; its clock stands until it is moved."""

    def __init__(self):
        self.now_ns = 0
        self.published = []

    def create_publisher(self, message_type, topic, depth):
        assert topic == '/diagnostics'
        return SimpleNamespace(publish=self.published.append)

    def get_clock(self):
        from rclpy.time import Time
        return SimpleNamespace(now=lambda: Time(nanoseconds=self.now_ns))

    def get_fully_qualified_name(self):
        return '/left/fusion_node'


class Reports:
    """A DiagnosticsPublisher over a SourceSelector that gets two cameras of 30 Hz."""

    def __init__(self, **settings):
        self.node = FakeNode()
        self.selector = SourceSelector(HealthSettings(**settings))
        self.selector.sources(0)
        self.tally = Counters()
        self.reporter = DiagnosticsPublisher(self.node, model='diffmf light', device='cpu')
        self.now_ns = 0
        self._frame = 0

    def send(self, frames, *, streams=(RGB, THERMAL), stamped=True, step=1):
        for _ in range(frames):
            self.now_ns += step * SECOND // 30
            self._frame += 1
            for name in streams:
                stamp_ns = EPOCH_NS + self.now_ns if stamped else 0
                frame = Frame(name, stamp_ns, name, SCENES[self._frame % 7], 'mono16',
                              arrival_ns=self.now_ns)
                self.selector.streams[name].arrived(frame, self.now_ns,
                                                    clock_ns=EPOCH_NS + self.now_ns + 5_000_000)
                self.selector.paired(self.now_ns)
                self.tally.count(f'{name}_in')

    def report(self, **given):
        """Publish a report and return the statuses by their last name."""
        given = {'scale': 1.0, 'issues': ()} | given
        self.reporter.publish(self.tally.totals({}), selector=self.selector, now_ns=self.now_ns,
                              **given)
        statuses = self.node.published[-1].status
        assert [s.name for s in statuses] == [f'left/fusion_node: {name}'
                                              for name in ('fusion', RGB, THERMAL)]
        return {s.name.rpartition(' ')[2]: s for s in statuses}


def values_of(report):
    return {item.key: item.value for item in report.values}


def test_good_cameras_three_good_statuses():
    """Two good cameras are three good statuses."""
    reports = Reports()
    reports.send(60)
    reports.tally.fused(latency_ms=12.0, mode='FUSED', warnings=())
    reports.node.now_ns = 2 * SECOND

    report = reports.report(memory={'rss': 512_000_000, 'cuda': 2_000_000})

    assert [s.level for s in report.values()] == [OK, OK, OK]
    assert [s.message for s in report.values()] == ['fusing', 'OK', 'OK']
    fusion = values_of(report['fusion'])
    assert (fusion['rate_rgb_hz'], fusion['rate_thermal_hz'],
            fusion['rate_out_hz']) == ('30.00', '30.00', '0.50')
    assert (fusion['mode'], fusion['sources'], fusion['fallback']) == ('FUSED', 'BOTH', '')
    assert (fusion['model'], fusion['device'], fusion['scale']) == ('diffmf light', 'cpu', '1')
    assert (fusion['memory_rss_mb'], fusion['memory_cuda_mb']) == ('512.0', '2.0')
    assert fusion['latency_p50_ms'] == fusion['latency_p99_ms'] == '12.0' and float(
        fusion['age_ms']) >= 12
    thermal = values_of(report['thermal'])
    assert (thermal['state'], thermal['rate_hz'], thermal['missing'],
            thermal['frames']) == ('OK', '30.00', '0', '60')
    assert thermal['age_ms'] == '0.0'


def test_cameras_have_greenwave_monitor_keys():
    """Each camera has the keys of greenwave_monitor."""
    reports = Reports()
    reports.send(60)

    values = values_of(reports.report()['rgb'])

    # The keys of greenwave_diagnostics.hpp, those of its dashboards first.
    assert (values['frame_rate_node'], values['frame_rate_msg']) == ('30.000', '30.000')
    assert values['current_delay_from_realtime_ms'] == '5.000'
    assert (values['expected_frequency'], values['tolerance']) == ('30.000', '50.000')
    for name in ('num_non_increasing_msg', 'num_jitter_outliers_msg', 'num_jitter_outliers_node',
                 'max_abs_jitter_msg', 'max_abs_jitter_node', 'mean_abs_jitter_msg',
                 'mean_abs_jitter_node', 'total_dropped_frames'):
        assert values[name] == '0', name


def test_greenwave_keys_before_first_frame():
    """Before the first frame greenwave's keys are there and say so."""
    values = greenwave_values(SourceSelector(HealthSettings()).rgb)

    assert values['current_delay_from_realtime_ms'] == 'N/A'
    assert (values['frame_rate_node'], values['expected_frequency'],
            values['tolerance']) == ('0.000',) * 3


def test_no_frames_warns_then_errors():
    """No frames is a warning first and then an error."""
    reports = Reports(source_timeout_s=1.0)
    reports.now_ns = SECOND

    starting = reports.report()
    reports.now_ns += 1
    late = reports.report()

    assert [s.level for s in starting.values()] == [WARN, WARN, WARN]
    assert [s.level for s in late.values()] == [ERROR, ERROR, ERROR]
    for report in (starting, late):
        assert report['fusion'].message == 'no rgb frames; no thermal frames'
        assert report['rgb'].message == 'no frames'


def test_lost_camera_errors_fusion_warns():
    """A lost camera is an error of its own and a warning of the fusion."""
    reports = Reports()
    reports.send(60)
    reports.send(60, streams=[RGB])

    report = reports.report()

    assert [s.level for s in report.values()] == [WARN, OK, ERROR]
    assert report['fusion'].message == 'thermal is LOST: rgb alone'
    assert values_of(report['fusion'])['sources'] == 'RGB_ONLY'
    assert (report['thermal'].message,
            values_of(report['thermal'])['rate_hz']) == ('LOST', '15.00')


def test_a_frozen_camera_is_a_warning():
    reports = Reports()
    reports.send(60)
    reports.selector.thermal.shutter(True)

    report = reports.report()

    assert [s.level for s in report.values()] == [WARN, OK, WARN]
    assert report['thermal'].message == 'FROZEN (the shutter is closed)'


def test_refusals_by_camera_and_reason():
    """Refused messages are told by camera and reason."""
    reports = Reports()
    reports.send(60)
    for _ in range(2):
        reports.selector.rgb.refused(reports.now_ns)
        reports.tally.drop('short_buffer', error='too short', stream=RGB)

    first, second = reports.report(), reports.report()

    assert (first['rgb'].level, first['rgb'].message) == (WARN, '2 refused: short_buffer')
    assert first['thermal'].level == OK
    assert (second['rgb'].level, second['rgb'].message) == (OK, 'OK')
    assert values_of(second['rgb'])['refused.short_buffer'] == '2'


def test_missing_frames_suggest_shared_memory():
    """Many missing frames ask for the shared memory profile."""
    reports = Reports()
    for _ in range(20):
        reports.send(1, step=3)
        reports.send(1)

    report = reports.report()

    assert report['rgb'].level == WARN
    assert report['rgb'].message.endswith('are the senders using the shared-memory profile?')
    assert float(values_of(report['rgb'])['missing_percent']) == pytest.approx(50, abs=3)


def test_zero_stamps_are_said():
    reports = Reports()
    reports.send(30, stamped=False)

    report = reports.report(notes=['a note'])

    assert report['rgb'].message == 'zero stamps: arrival time is used' and report[
        'rgb'].level == WARN
    assert values_of(report['fusion'])['notes'] == (
        'a note; rgb: zero stamps: arrival time is used; thermal: zero stamps: arrival time is '
        'used')


def test_incompatible_qos_warns_with_key():
    """Incompatible QoS is a warning with a key."""
    reports = Reports()
    reports.send(30)

    report = reports.report(incompatible={'thermal/image_raw': 'RELIABILITY'})['fusion']

    assert report.message == 'thermal/image_raw: a publisher offers incompatible RELIABILITY'
    assert values_of(report)['incompatible_qos'] == report.message and report.level == WARN


def test_standing_clock_has_no_rate(monkeypatch):
    """A standing clock gives a report without an output rate."""
    now_s = [100.0]
    monkeypatch.setattr(status, 'time', SimpleNamespace(monotonic=lambda: now_s[0]))
    reports = Reports()
    reports.send(30)

    assert values_of(reports.report()['fusion'])['rate_out_hz'] == 'N/A'
    assert not reports.reporter.overdue
    now_s[0] += 2.1
    assert reports.reporter.overdue
    reports.report()
    assert not reports.reporter.overdue


def test_disabled_node_has_no_complaint():
    """A disabled node has nothing to complain about."""
    reports = Reports()
    reports.now_ns = 5 * SECOND

    report = reports.report(disabled=True, issues=errors('no CUDA graph'))

    assert {(s.level, s.message) for s in report.values()} == {(OK, 'disabled')}


def test_changed_model_is_reported():
    """Another model is reported from then on."""
    reports = Reports()

    reports.reporter.model, reports.reporter.device = 'diffmf nano', 'cuda:0'

    report = reports.report()['fusion']
    assert (values_of(report)['model'], report.hardware_id) == ('diffmf nano', 'cuda:0')


def result(mode, *warnings):
    return FusionResult(EPOCH_NS + 7, 'rgb_optical', np.zeros((2, 2, 3), np.uint8), 'rgb8', mode,
                        warnings)


def message_of(*given, **other):
    other = {'rgb': StreamState.OK, 'thermal': StreamState.OK, 'model': 'diffmf light',
             'scale': 0.5} | other
    return status_message(result(*given), name='fusion_node: image', **other)


def test_image_status_header_and_method():
    """The status of an image has its header and says how it was made."""
    message = message_of(Mode.FUSED, offset_ms=6.25, held=True)

    assert (message.header.stamp.sec, message.header.stamp.nanosec) == (1_700_000_000, 7)
    assert message.header.frame_id == 'rgb_optical'
    assert (message.status[0].level, message.status[0].message) == (OK, 'FUSED')
    assert values_of(message.status[0]) == {
        'mode': 'FUSED', 'rgb': 'OK', 'thermal': 'OK', 'offset_ms': '6.250', 'held': 'true',
        'model': 'diffmf light', 'scale': '0.5', 'warnings': ''}


def test_single_camera_status_has_reason():
    """The status of an image of one camera is a warning with the reason."""
    message = message_of(Mode.RGB_ONLY, thermal=StreamState.FROZEN,
                         reason='thermal is FROZEN (equal images): rgb alone')

    assert (message.status[0].level, message.status[0].message) == (
        WARN, 'thermal is FROZEN (equal images): rgb alone')
    assert values_of(message.status[0])['offset_ms'] == 'N/A'
    assert values_of(message.status[0])['thermal'] == 'FROZEN'


def test_classical_errors_beside_network_only():
    """A classical image is an error only where a network is in use."""
    failed = message_of(Mode.CLASSICAL,
                        'the network returned NaN; this pair was fused classically').status[0]
    wanted = message_of(Mode.CLASSICAL, model='classical').status[0]

    assert (failed.level, wanted.level, wanted.message) == (ERROR, OK, 'CLASSICAL')
    assert failed.message == values_of(failed)['warnings']


FLAT = Issue('thermal_flat', 'thermal is flat: no structure beyond its noise', THERMAL, blind=True)
VEILED = Issue('rgb_veiled', 'rgb is veiled', RGB)
HIDDEN = Issue('targets_hidden', 'thermal shows warm targets that the fused image does not show')


def test_image_finding_warns_its_camera():
    """What an image shows is a warning of its camera."""
    reports = Reports()
    reports.send(60)
    reports.tally.fused(latency_ms=12.0, mode='RGB_ONLY', warnings=(FLAT.text,), issues=(FLAT,))

    report = reports.report()

    assert (report['thermal'].level, report['thermal'].message) == (WARN, FLAT.text)
    assert (report['fusion'].level, report['fusion'].message) == (WARN, FLAT.text)
    assert (report['rgb'].level, report['rgb'].message) == (OK, 'OK')


def test_camera_warning_ends_next_image():
    """The warning of a camera ends with the next good image."""
    reports = Reports()
    reports.send(60)
    reports.tally.fused(latency_ms=12.0, mode='FUSED', warnings=(VEILED.text,), issues=(VEILED,))
    assert reports.report()['rgb'].level == WARN

    reports.tally.fused(latency_ms=12.0, mode='FUSED', warnings=())

    assert {status.level for status in reports.report().values()} == {OK}


def test_hidden_targets_warn_fusion_alone():
    """Hidden targets are a warning of the fusion alone."""
    reports = Reports()
    reports.send(60)
    reports.tally.fused(latency_ms=12.0, mode='FUSED', warnings=(HIDDEN.text,), issues=(HIDDEN,))

    report = reports.report()

    assert [report[name].level for name in ('fusion', 'rgb', 'thermal')] == [WARN, OK, OK]
    assert report['fusion'].message == HIDDEN.text


def test_image_status_has_issue_codes():
    """The status of an image has the codes of its issues."""
    about = dict(name='n', rgb=StreamState.OK, thermal=StreamState.OK, model='classical',
                 scale=1.0)
    blind = replace(result(Mode.RGB_ONLY, FLAT.text, VEILED.text), issues=(FLAT, VEILED))

    message = status_message(blind, **about).status[0]

    assert message.level == WARN and message.message == f'{FLAT.text}; {VEILED.text}'
    assert values_of(message)['issues'] == 'thermal_flat, rgb_veiled'
    assert 'issues' not in values_of(status_message(result(Mode.FUSED), **about).status[0])
