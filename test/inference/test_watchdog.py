# SPDX-License-Identifier: Apache-2.0
"""Calls in a thread of their own, for which nobody waits longer than is sensible."""

import gc
import threading
from functools import partial
from types import SimpleNamespace

import pytest

from diffmf_ros.core.frames import THERMAL, Issue, Level, Mode
from diffmf_ros.inference import fault_tolerance
from diffmf_ros.inference.fault_tolerance import (
    Call,
    CallTimeout,
    ClassicalFallback,
    FaultTolerantRunner,
    TimedThread,
)

SOON_S = 0.01  # for calls that block until the test lets them go
DEADLINE_S = 20.0


class Blocking:
    """Work that is done when the test says so."""

    def __init__(self, value=None):
        self.value, self.go, self.done = value, threading.Event(), threading.Event()

    def __call__(self):
        self.go.wait(DEADLINE_S)
        self.done.set()
        return self.value


def come_back(dog):
    """Wait until the late call has come back."""
    deadline = threading.Event()
    for _ in range(2000):
        if not dog.abandoned.running:
            return
        deadline.wait(0.01)
    raise AssertionError('the late call did not come back')


def hang(dog, work, kind='any'):
    with pytest.raises(CallTimeout):
        dog.call(work, kind=kind, timeout_s=SOON_S)


@pytest.fixture
def dog():
    dog = TimedThread()
    yield dog
    dog.close()


def settled(dog, kind='any'):
    """Make two calls of a kind, so that it has a usual time."""
    for _ in range(2):
        dog.call(lambda: None, kind=kind, timeout_s=DEADLINE_S)


def test_calls_share_one_thread(dog):
    """A call runs in another thread always the same one."""
    idents = {dog.call(threading.get_ident, kind='any', timeout_s=DEADLINE_S) for _ in range(3)}
    assert len(idents) == 1 and threading.get_ident() not in idents


def test_work_error_reaches_caller(dog):
    """What the work raises is raised to the caller."""
    with pytest.raises(ZeroDivisionError):
        dog.call(lambda: 1 / 0, kind='any', timeout_s=DEADLINE_S)
    assert dog.call(lambda: 5, kind='any', timeout_s=DEADLINE_S) == 5


def test_slow_call_is_given_up(dog):
    """A call that takes too long is given up and its result reaches nobody."""
    settled(dog)
    work = Blocking('late')
    hang(dog, work)
    assert dog.abandoned.running and dog.abandoned.hangs
    work.go.set()
    come_back(dog)
    assert not dog.abandoned.hangs
    assert dog.forget() is None and dog.abandoned is None
    assert dog.call(lambda: 'new', kind='any', timeout_s=DEADLINE_S) == 'new'


def test_hung_call_error_not_counted(dog):
    """The error of a call that hung does not count again."""
    settled(dog)
    work = Blocking()
    hang(dog, lambda: work() or 1 / 0)
    work.go.set()
    come_back(dog)
    assert dog.forget() is None


def test_late_first_calls_are_ok(dog):
    """The first calls of a kind do not hang when they are late."""
    for _ in range(2):
        work = Blocking()
        hang(dog, work, kind='new size')
        assert dog.abandoned.unmeasured and dog.abandoned.running and not dog.abandoned.hangs
        work.go.set()
        come_back(dog)
        assert dog.forget() is None
    hang(dog, Blocking(), kind='new size')
    assert not dog.abandoned.unmeasured and dog.abandoned.hangs


def test_late_first_call_error_kept(dog):
    """The error of a late first call is not lost."""
    work = Blocking()
    hang(dog, lambda: work() or 1 / 0, kind='new size')
    work.go.set()
    come_back(dog)
    assert isinstance(dog.forget(), ZeroDivisionError)


def test_first_call_has_own_limit(dog, monkeypatch):
    """A first call hangs when it exceeds its own limit."""
    monkeypatch.setattr(fault_tolerance, 'FIRST_CALL_S', 0.0)
    work = Blocking()
    hang(dog, work)
    assert dog.abandoned.unmeasured and dog.abandoned.hangs
    work.go.set()


@pytest.fixture
def clock(monkeypatch):
    """A clock of the watchdog that stands until clock.tick(seconds)."""
    now_s = [100.0]
    clock = SimpleNamespace(monotonic=lambda: now_s[0],
                            tick=lambda seconds: now_s.append(now_s.pop() + seconds))
    monkeypatch.setattr(fault_tolerance, 'time', clock)
    return clock


def test_limit_is_timeout_or_multiple(dog, clock):
    """The limit is the timeout or five usual times without the first."""
    limits_s = []
    for took_s in (90.0, 3.0, 1.0, 2.0):
        limits_s.append(dog.limit_s('any', 6.0))
        dog.call(partial(clock.tick, took_s), kind='any', timeout_s=DEADLINE_S)
    assert limits_s == [6.0, 6.0, 15.0, 10.0]
    assert dog.limit_s('any', 6.0) == 10.0
    assert dog.limit_s('another size', 6.0) == 6.0


def test_usual_time_from_newest_calls(dog, clock):
    """The usual time is that of the newest calls."""
    for took_s in (0.0, *[1.0] * 9, *[4.0] * 5):
        dog.call(partial(clock.tick, took_s), kind='any', timeout_s=DEADLINE_S)
    assert dog.limit_s('any', 0.1) == 20.0


def test_hung_call_is_not_usual(dog, clock):
    """A call that hung is no measure of the usual time."""
    settled(dog)
    work = Blocking()
    hang(dog, lambda: work() or clock.tick(50.0))
    work.go.set()
    come_back(dog)
    dog.forget()
    assert dog.limit_s('any', 0.1) == 0.1


def test_close_waits_for_nothing():
    """Close waits for nothing and ends the thread when its call is back."""
    dog = TimedThread()
    work = Blocking()
    hang(dog, work)
    dog.close()
    assert dog._thread.is_alive()
    work.go.set()
    dog._thread.join(DEADLINE_S)
    assert not dog._thread.is_alive()


def test_a_forgotten_watchdog_ends_its_thread():
    dog = TimedThread()
    thread = dog._thread
    del dog
    gc.collect()
    thread.join(DEADLINE_S)
    assert not thread.is_alive()


def test_oldest_kind_is_forgotten(dog):
    """Of many kinds of call the oldest has no usual time any more, so that memory has an end."""
    for kind in range(100):
        settled(dog, kind)

    hang(dog, oldest := Blocking(), kind=0)
    assert dog.abandoned.unmeasured
    oldest.go.set()
    come_back(dog)
    dog.forget()
    hang(dog, newest := Blocking(), kind=99)
    assert not dog.abandoned.unmeasured
    newest.go.set()


def test_sixteen_kinds_are_remembered(dog):
    for kind in range(17):
        settled(dog, kind)

    assert [dog._usual_s.get(kind) is None for kind in (0, 1, 16)] == [True, False, False]


def test_thread_is_a_daemon(dog):
    """It has a name for whoever looks at a process that hangs, whose end it does not hold up."""
    assert (dog._thread.name, dog._thread.daemon) == ('network', True)


@pytest.fixture
def pair():
    """Return what stands for a prepared pair on the grid of thermal."""
    return SimpleNamespace(mapping=SimpleNamespace(grid=THERMAL), image_of=lambda grid: grid,
                           kind=lambda scale: ('size', scale))


def test_failed_classical_names_the_error(pair):
    """Where classical fusion raises, the camera of the grid is passed on, and the reason told."""
    scales = []

    def fails(prepared, scale):
        scales.append(scale)
        raise ValueError('no room')

    fallback = ClassicalFallback()
    fallback._backend = SimpleNamespace(fuse=fails)
    fused = fallback.fuse(pair)

    assert (fused.image(), fused.mode, scales) == (THERMAL, Mode.THERMAL_ONLY, [1.0])
    assert fused.warnings == (
        'classical fusion raised ValueError: no room; the thermal image was passed on',)
    assert fallback.issues == (Issue(
        'network_degraded', 'classical fusion raised ValueError: no room', level=Level.ERROR),)


def test_call_knows_kind_and_meanwhile(pair):
    """A network is called at its size, by a limit of that kind, and other work is done meanwhile.
    """
    did, limits = [], []

    def fuse(prepared, scale, call):
        return call(lambda: f'fused at {scale}')

    runner = FaultTolerantRunner(SimpleNamespace(backend=SimpleNamespace(fuse=fuse), problems=()))
    runner._calls.limit_s = lambda *limit: limits.append(limit) or DEADLINE_S
    fused = runner.fuse(pair, scale=0.5, timeout_s=3.0, meanwhile=lambda: did.append('other'))
    runner.close()

    assert (fused.image, fused.mode, fused.scale) == ('fused at 0.5', Mode.FUSED, 0.5)
    assert (did, limits, runner.issues) == (['other'], [(('size', 0.5), 3.0)], ())


@pytest.mark.parametrize('error, reason', [
    (partial(CallTimeout, 2.0, unmeasured=False), 'the network gave no result within 2.0 s'),
    (partial(ValueError, 'odd'), 'the network raised ValueError: odd')])
def test_failure_keeps_the_size_once(pair, error, reason):
    """One time-out, or error, is no lack of memory: the size stays, and a pair is left out."""
    def fuse(prepared, scale, call):
        raise error()

    renewed = []
    runner = FaultTolerantRunner(SimpleNamespace(
        backend=SimpleNamespace(fuse=fuse), problems=(), renew=lambda: renewed.append(1)))
    fused = [runner.fuse(pair, scale=1.0, timeout_s=3.0) for _ in range(2)]
    runner.close()

    assert [one.image for one in fused] == [None, None] and not renewed
    assert [one.warnings for one in fused] == [(reason,), (f'the network failed: {reason}',)]
    assert runner.trusted.largest == 1.0
    assert [issue.code for issue in runner.issues] == ['network_degraded']


def test_late_lack_of_memory_counts(pair):
    """A first call that was given up and then ran out of memory is a failure of that kind."""
    def fails():
        raise MemoryError('full')

    renewed = []
    runner = FaultTolerantRunner(SimpleNamespace(
        backend=None, problems=(), renew=lambda: renewed.append(1)))
    runner._calls.abandoned = Call(fails, 'any', unmeasured=True)
    runner._calls.abandoned.run()
    fused = runner.fuse(pair, scale=1.0, timeout_s=3.0)
    runner.close()

    assert fused.warnings == ('the network failed: the network raised MemoryError: full',)
    assert renewed == [1] and runner.trusted.largest < 1
