# SPDX-License-Identifier: Apache-2.0
"""How the executables start and stop.

Signals set a flag, the main loop ends, the process exits with 0.

The fusion node, which must end whatever it is doing, adds a Life: at once after a failure, soon
after a signal. A thread that is in a library cannot be ended, and Python waits for it. So the
process is ended by os._exit, after the log is written and the other nodes are told. All of that
has a time limit. What Fast DDS has not removed by then of its shared memory, it never would.

rclpy's own handlers shut the context down inside the signal, before the node can publish its last
status or the recorder can close its bag; what then reaches the main thread differs between
distributions (KeyboardInterrupt on Humble, ExternalShutdownException later). So they stay off.
"""

import ctypes
import os
import re
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import rclpy
from rclpy._rclpy_pybind11 import RCLError, UnknownROSArgsError
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode
from rclpy.logging import LoggingSeverity, get_logger
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from rclpy.utilities import get_rmw_implementation_identifier, remove_ros_args, try_shutdown

from ..core.frames import DiffmfError
from ..core.settings import RealtimeSettings
from ..io.resources import fastdds_environment

# A signal does not wake the executor: it is noticed within this time.
POLL_S = 0.1
# Those above have no ports.
LAST_DOMAIN = 232
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

    @property
    def unheard(self) -> bool:
        """Return whether a first signal would interrupt the main thread, which still starts."""
        return self._interrupts

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
        said = _AT.sub('', str(error)).replace('\n', '. ')
        if isinstance(error, UnknownROSArgsError):
            said = f'unknown ROS arguments {said}: parameters are given by -p NAME:=VALUE'
        elif said.startswith('failed to initialize logging'):
            said += ('; set ROS_LOG_DIR to a folder that can be written (else it is .ros/log in '
                     'HOME)')
        raise ArgumentError(said) from error


def _check_domain() -> None:
    """Raise ArgumentError for the number of a domain that DDS has no ports for.

    Fast DDS would end the process.
    """
    given = os.environ.get('ROS_DOMAIN_ID', '')
    with suppress(ValueError):  # rclpy says what it does not take for a number
        if int(given, 0) > LAST_DOMAIN and 'zenoh' not in get_rmw_implementation_identifier():
            raise ArgumentError(f'ROS_DOMAIN_ID={given}: the numbers of domains are 0 to '
                                f'{LAST_DOMAIN}')


def init(args: list[str] | None) -> None:
    """Initialize rclpy and leave the signals to StopRequest. Raises ArgumentError."""
    _check_domain()
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


def shared_memory(process: int) -> list[Path]:
    """Return the files of the shared memory that Fast DDS has made in a process, none of others.

    A segment has a file beside it that its maker holds locked. The ports are not among them: Fast
    DDS takes those over when their number is needed again.
    """
    files: list[Path] = []
    held: set[tuple[str, ...]] = set()
    with suppress(OSError):
        # '->': it waits for the lock of another one.
        held = {tuple(line.split()[-4:-2]) for line in Path('/proc/locks').read_text().splitlines()
                if '->' not in line}
    for lock in Path('/dev/shm').glob('fast*_[0-9a-f]*_el'):  # noqa: S108
        with suppress(OSError):  # those of others come and go
            at = lock.lstat()  # not stat: a link of another user may lead to a lock of the process
            device = f'{os.major(at.st_dev):02x}:{os.minor(at.st_dev):02x}'
            if (str(process), f'{device}:{at.st_ino}') in held:
                files += [lock.with_name(lock.name.removesuffix('_el')), lock]
    return files


def use_camera_transports() -> None:
    """Give this process the shipped Fast DDS profile, unless the user has set one (before init).
    """
    os.environ.update(fastdds_environment(os.environ))


# A signal is obeyed within 2 s: the node may take so long to stop by itself,
STOP_S = 1.0
# but only so long while it starts, when nothing is in work and the main thread is in a library,
UNHEARD_S = 0.3
# and so long to tell the others when it has not; in every other case,
LATE_FAREWELL_S = 0.3
# so long.
FAREWELL_S = 3.0


class CallbackFailed(BaseException):
    """The cause of this left a callback where rclpy hides exceptions; it lets this pass."""


class Life:
    """The life of this process, which serves one lifecycle node.

    stop is raised by SIGINT and SIGTERM. Assign node as soon as there is one: it is destroyed at
    the end, so that the other nodes know.
    """

    def __init__(self, name: str):
        """Take charge of signals and threads, and log under name; once, in the main thread."""
        self.node: LifecycleNode | None = None
        self.stop = StopRequest.on_signals()
        self._name = name
        self._code: int | None = None
        signals, wake_up = os.pipe()
        os.set_blocking(wake_up, False)
        # A handler has to wait for the main thread, which may be in a library; this is immediate.
        signal.set_wakeup_fd(wake_up, warn_on_full_buffer=False)
        threading.Thread(target=self._watch, args=(signals,), name='signals', daemon=True).start()
        threading.excepthook = self._on_thread_failed

    def live(self, work: Callable[[], int]) -> NoReturn:
        """Do work and end the process with the exit code that it returns.

        What work raises is logged, and the code is 1; Interrupted means 0.
        """
        try:
            code = work()
        except Interrupted:
            code = 0
        except BaseException as error:
            self._fail(error)
        self._leave(code, within_s=FAREWELL_S)

    def _watch(self, signals: int) -> None:
        """End the process when the main thread has not in time after a signal; in a thread."""
        while os.read(signals, 1)[0] not in (signal.SIGINT, signal.SIGTERM):
            pass  # a signal that somebody else handles
        self._end_soon(0)

    def _end_soon(self, code: int) -> None:
        """Ask the main thread to stop, and end the process when it has not within STOP_S, or has
        not heard within UNHEARD_S."""
        self.stop.requested = True
        time.sleep(UNHEARD_S)
        if not self.stop.unheard:
            time.sleep(STOP_S - UNHEARD_S)
        self._leave(code, within_s=LATE_FAREWELL_S, say=lambda: self._logger.warning(
            'stopped without waiting for what was in work: it took too long'))

    def _on_thread_failed(self, failure) -> None:
        """End the process with a thread that it needs. Those of libraries are daemons.

        The main thread does it, which may be waiting for messages: a node in use cannot be
        destroyed. The thread that failed ends here, because a node that stops waits for it.
        """
        if failure.thread is None or failure.thread.daemon:
            threading.__excepthook__(failure)
        else:
            self._code = 1
            cause = failure.exc_value or RuntimeError('no reason was given')
            self._logger.fatal(self._obituary(cause))
            threading.Thread(target=self._end_soon, args=(1,), name='end', daemon=True).start()

    def _fail(self, error: BaseException) -> NoReturn:
        cause = error.__cause__ or error if isinstance(error, CallbackFailed) else error
        self._leave(1, within_s=FAREWELL_S, say=lambda: self._logger.fatal(self._obituary(cause)))

    @staticmethod
    def _obituary(cause: BaseException) -> str:
        return 'the node has failed and ends:\n' + ''.join(traceback.format_exception(cause))

    @property
    def _logger(self):
        return self.node.get_logger() if self.node is not None else get_logger(self._name)

    def _leave(self, code: int, *, within_s: float,
               say: Callable[[], None] | None = None) -> NoReturn:
        """Call say, tell the other nodes, and end the process; after within_s at the latest."""
        if self._code is None:  # who comes first decides
            self._code = code
        idle = threading.current_thread() is threading.main_thread()
        farewell = threading.Thread(target=self._take_leave, args=(say, idle), daemon=True)
        farewell.start()
        farewell.join(within_s)
        with suppress(Exception):
            for file in shared_memory(int(os.readlink('/proc/self'))):  # the number that /proc has
                file.unlink(missing_ok=True)
        os._exit(self._code)

    def _take_leave(self, say: Callable[[], None] | None, idle: bool) -> None:
        """Write the log and destroy the node; idle: the main thread waits and uses nothing."""
        with suppress(Exception):  # any other thread may be in the midst of anything
            if say is not None:
                say()
            if self.node is not None:
                # Threads that lose the node under their feet have nothing to say that matters.
                self.node.get_logger().set_level(LoggingSeverity.FATAL)
                self.node.destroy_node()
                if idle:  # rclpy checks no use of this; it keeps the name of the node in the graph
                    self.node._state_machine.destroy_when_not_in_use()
        with suppress(Exception):
            try_shutdown()
            sys.stdout.flush()
            sys.stderr.flush()
