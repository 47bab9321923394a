# SPDX-License-Identifier: Apache-2.0
"""How the state of the fusion is judged from what changed between two reports."""

from collections import Counter

from diagnostic_msgs.msg import DiagnosticStatus

from diffmf_ros.ros.status import Tally, Totals, judge

BEFORE = Totals(counted=Counter(rgb_in=30, thermal_in=30, pairs=30, fused=30))


def after(*, fused=30, dropped=None, rgb_in=30, thermal_in=30, **other):
    counted = Counter(BEFORE.counted) + Counter(rgb_in=rgb_in, thermal_in=thermal_in, fused=fused)
    return Totals(counted=counted, dropped=Counter(dropped or {}), **other)


def test_fusing_is_ok():
    assert judge(after(), BEFORE, []) == (DiagnosticStatus.OK, 'fusing')


def test_unequal_rates_and_overtaken_pairs_are_ok():
    totals = after(dropped={'unpaired': 21, 'overtaken': 3})

    assert judge(totals, BEFORE, []) == (DiagnosticStatus.OK, 'fusing')


def test_a_silent_stream_is_a_warning():
    assert judge(after(thermal_in=0), BEFORE, []) == (DiagnosticStatus.WARN, 'no thermal frames')


def test_a_bad_frame_and_a_complaint_are_warnings_until_they_stop():
    totals = after(dropped={'short_buffer': 2})

    level, message = judge(totals, BEFORE, ['no calibration'])

    assert (level, message) == (DiagnosticStatus.WARN, '2 dropped: short_buffer; no calibration')
    later = Totals(counted=totals.counted + totals.counted, dropped=totals.dropped)
    assert judge(later, totals, [])[0] == DiagnosticStatus.OK


def test_failures_are_an_error_when_nothing_is_fused_and_else_a_warning():
    failing = after(fused=0, dropped={'failed': 30}, last_error='out of memory')

    assert judge(failing, BEFORE, []) == (DiagnosticStatus.ERROR, 'fusion fails: out of memory')
    assert judge(after(dropped={'failed': 1}), BEFORE, []) == (DiagnosticStatus.WARN, '1 dropped: failed')


def test_a_problem_is_an_error_while_fusion_goes_on():
    problems = ('scan triton returned NaN and is not used', 'no CUDA graph')

    level, message = judge(after(), BEFORE, [], problems)
    assert (level, message) == (DiagnosticStatus.ERROR, '; '.join(problems))

    level, message = judge(after(thermal_in=0), BEFORE, ['no calibration'], problems[:1])
    assert level == DiagnosticStatus.ERROR
    assert message == f'{problems[0]}; no thermal frames; no calibration'


def test_failing_fusion_is_named_before_a_problem():
    failing = after(fused=0, dropped={'failed': 30}, last_error='out of memory')

    level, message = judge(failing, BEFORE, [], ['no CUDA graph'])

    assert (level, message) == (DiagnosticStatus.ERROR, 'fusion fails: out of memory; no CUDA graph')


def test_the_tally_adds_up():
    tally = Tally()
    for latency_ms in (10.0, 20.0, 30.0):
        tally.count('rgb_in')
        tally.fused(latency_ms=latency_ms, mode='FUSED', warnings=())
    tally.drop('short_buffer', error='too short')
    tally.drop('overtaken')

    totals = tally.totals({'unpaired': 4})

    assert totals.counted == {'rgb_in': 3, 'fused': 3}
    assert totals.dropped == {'short_buffer': 1, 'overtaken': 1, 'unpaired': 4}
    assert (totals.latency_p50_ms, totals.mode, totals.last_error) == (20.0, 'FUSED', 'too short')
