# SPDX-License-Identifier: Apache-2.0
"""How the executables start and stop.

Signals set a flag, the main loop ends, the process exits with 0.

The fusion node, which must end whatever it is doing, adds ending.Life.

rclpy's own handlers shut the context down inside the signal, before the node can publish its last
status or the recorder can close its bag; what then reaches the main thread differs between
distributions (KeyboardInterrupt on Humble, ExternalShutdownException later). So they stay off.
"""

import ctypes
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import rclpy
from rclpy._rclpy_pybind11 import RCLError
from rclpy.executors import SingleThreadedExecutor
from rclpy.logging import get_logger
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from rclpy.utilities import remove_ros_args, try_shutdown

from ..core.frames import DiffmfError
from ..core.settings import RealtimeSettings
from ..io.resources import fastdds_environment

# A signal does not wake the executor: it is noticed within this time.
POLL_S = 0.1
# mlockall: what is in memory now, what comes, each page when it is first used.
_LOCK_USED_PAGES = 1 | 2 | 4
# What take_priority has changed of this process, as it was before.
_started: dict[str, Any] = {}
_Node = TypeVar('_Node', bound=Node)
# Where in rcl an error was noticed.
_AT = re.compile(r', at [^,\s]+:\d+')


class Interrupted(BaseException):
    """A signal came within StopRequest.interrupting(). No error, and not to be handled as one."""


class ArgumentError(DiffmfError):
    """rclpy does not take the ROS arguments of the command line, a file that they name, or a node
    under the security that the environment asks for."""


class StopRequest:
    """A flag that SIGINT and SIGTERM raise. A second signal changes nothing."""

    def __init__(self):
        self.requested = False
        self._interrupts = False

    @classmethod
    def on_signals(cls) -> 'StopRequest':
        """Return a flag wired to SIGINT and SIGTERM of this process (main thread only)."""
        stop = cls()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, stop._request)
        return stop

    @contextmanager
    def interrupting(self) -> Iterator[None]:
        """Let a signal raise Interrupted in this block, also one that came before; main thread."""
        self._interrupts = True
        try:
            if self.requested:
                raise Interrupted
            yield
        finally:
            self._interrupts = False

    def _request(self, number, stack) -> None:
        self.requested = True
        if self._interrupts:
            self._interrupts = False  # once: what cleans up after it is not to be interrupted
            raise Interrupted


@contextmanager
def _refused(kind: type[Exception] = Exception) -> Iterator[None]:
    """Raise ArgumentError in place of a kind of errors; rclpy has several, most of them private.
    """
    try:
        yield
    except kind as error:
        raise ArgumentError(_AT.sub('', str(error)).replace('\n', '. ')) from error


def init(args: list[str] | None) -> None:
    """Initialize rclpy and leave the signals to StopRequest. Raises ArgumentError."""
    with _refused():
        rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)


def own_arguments(args: list[str] | None) -> list[str]:
    """Return what of a command line, None: of this process, is not for ROS.

    Raises:
        ArgumentError: rclpy does not take the rest.
    """
    with _refused():
        return remove_ros_args(['', *args] if args is not None else sys.argv)[1:]


def created(make: Callable[[], _Node]) -> _Node:
    """Return make(), a node.

    Raises:
        ArgumentError: The middleware refuses it, such as one without security under SROS 2.
    """
    with _refused(RCLError):
        return make()


def execute(name: str, args: list[str] | None, parse: Callable, work: Callable, *,
            failed: int = 1) -> int:
    """Run work(options, stop) with rclpy initialized; return the exit code.

    options is parse(command line without ROS arguments). 0: it ended or was stopped; failed: a
    DiffmfError, which is logged under name.
    """
    stop = StopRequest.on_signals()
    try:
        options = parse(own_arguments(args))
        use_camera_transports()
        init(args)
        work(options, stop)
        return 0
    except DiffmfError as error:
        get_logger(name).fatal(str(error))
        return failed
    finally:
        try_shutdown()


def spin_until(node: Node, stop: StopRequest) -> None:
    """Run the callbacks of node in this thread until stop is requested."""
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    try:
        while not stop.requested:
            executor.spin_once(timeout_sec=POLL_S)
    finally:
        executor.remove_node(node)
        executor.shutdown()


def take_priority(settings: RealtimeSettings) -> list[str]:
    """Schedule, pin and lock this process as asked; threads to come do as those that make them.

    What an earlier call has changed, and settings do not ask for, becomes as it was started.

    Returns:
        What the system refused, and what to do about it.
    """
    refused = []
    cpus, scheduled = _started.get('cpus'), _started.get('scheduled')
    if settings.cpu_affinity:
        _started.setdefault('cpus', os.sched_getaffinity(0))
        cpus = set(map(int, settings.cpu_affinity.split(',')))
    if settings.thread_priority:
        _started.setdefault('scheduled', (os.sched_getscheduler(0), os.sched_getparam(0)))
        scheduled = os.SCHED_FIFO, os.sched_param(settings.thread_priority)
    try:
        if cpus:
            _for_all_threads(os.sched_setaffinity, cpus)
    except OSError as error:
        refused.append(f'realtime.cpu_affinity {settings.cpu_affinity}: {error.strerror}; the '
                       f'CPUs here are {",".join(map(str, sorted(os.sched_getaffinity(0))))}')
    try:
        if scheduled:
            _for_all_threads(os.sched_setscheduler, *scheduled)
    except OSError as error:
        refused.append(f'realtime.thread_priority {settings.thread_priority}: {error.strerror}; '
                       'allow it with LimitRTPRIO= and RestrictRealtime=no (systemd) or ulimit -r')
    glibc = ctypes.CDLL(None, use_errno=True)
    if settings.lock_memory:
        _started['locked'] = False
        if glibc.mlockall(_LOCK_USED_PAGES):
            refused.append(f'realtime.lock_memory: {os.strerror(ctypes.get_errno())}; allow it '
                           'with LimitMEMLOCK=infinity (systemd) or ulimit -l unlimited')
    elif 'locked' in _started:
        glibc.munlockall()
    return refused


def _for_all_threads(change: Callable, *to: Any) -> None:
    """Call change(thread, *to) for the threads of this process. Raises OSError: it is refused."""
    for thread in os.listdir('/proc/self/task'):
        with suppress(ProcessLookupError):  # it has ended since
            change(int(thread), *to)


def use_camera_transports() -> None:
    """Give this process the shipped Fast DDS profile, unless the user has set one (before init).
    """
    os.environ.update(fastdds_environment(os.environ))
