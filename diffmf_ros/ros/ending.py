# SPDX-License-Identifier: Apache-2.0
"""How the process of a node ends: at once after a failure, soon after a signal.

A thread that is in a library cannot be ended, and Python waits for it. So the process is ended by
os._exit, after the log is written and the other nodes are told. All of that has a time limit.
"""

import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

from rclpy.lifecycle import LifecycleNode
from rclpy.logging import LoggingSeverity, get_logger
from rclpy.utilities import try_shutdown

from .process import Interrupted, StopRequest

# A signal is obeyed within 2 s: the node may take so long to stop by itself,
STOP_S = 1.2
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
        """End the process when the main thread has not within STOP_S of a signal; in a thread."""
        while os.read(signals, 1)[0] not in (signal.SIGINT, signal.SIGTERM):
            pass  # a signal that somebody else handles
        self._end_soon(0)

    def _end_soon(self, code: int) -> None:
        """Ask the main thread to stop, and end the process when it has not within STOP_S."""
        self.stop.requested = True
        time.sleep(STOP_S)
        self._leave(code, within_s=LATE_FAREWELL_S, say=lambda: self._logger.warning(
            f'stopped without waiting for what was in work: it took more than {STOP_S:g} s'))

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
