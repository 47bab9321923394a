# SPDX-License-Identifier: Apache-2.0
"""Loads another network aside, while the present one goes on fusing."""

import threading
import traceback
from collections.abc import Callable

from rclpy.node import Node

from ..core.frames import DiffmfError
from ..core.settings import Settings


class BackgroundLoader:
    """Calls pipeline.load(settings) in a thread and done(settings, loaded, error) in the
    executor's.

    One network is loaded at a time; of the requests that come meanwhile only the newest counts.
    """

    def __init__(self, node: Node, pipeline, done: Callable):
        """done gets what load returned and '', or None and why it failed."""
        self._node, self._pipeline, self._done = node, pipeline, done
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._wanted: Settings | None = None
        self._outcome: tuple | None = None
        self._closed = False
        self._finished = node.create_guard_condition(self._deliver)

    def request(self, settings: Settings) -> None:
        """Load the network of settings; call it in the executor's thread."""
        self._wanted = settings
        if self._thread is None:
            self._start()

    @property
    def busy(self) -> bool:
        """Whether a network is being loaded."""
        return self._thread is not None

    def wait(self, timeout_s: float) -> tuple | None:
        """Return (settings, loaded, error) of the network that is being loaded in place of done().

        None when it takes longer than timeout_s; done() then gets it later. In the executor's
        thread.
        """
        thread = self._thread
        if thread is None:
            return None
        thread.join(timeout_s)
        if thread.is_alive():
            return None
        with self._lock:
            outcome, self._outcome = self._outcome, None
        self._thread = None
        return outcome

    def close(self) -> None:
        """Deliver nothing any more. The thread is not waited for: a driver may keep it for ever,
        and a node that ends while a network is loaded has to be gone in time."""
        with self._lock:
            self._closed = True
        self._node.destroy_guard_condition(self._finished)

    def _start(self) -> None:
        settings, self._wanted = self._wanted, None
        self._thread = threading.Thread(target=self._load, args=(settings,), name='network loader',
                                        daemon=True)
        self._thread.start()

    def _load(self, settings: Settings) -> None:
        try:
            outcome = settings, self._pipeline.load(settings), ''
        except DiffmfError as error:
            outcome = settings, None, str(error)
        # of torch or a driver: the node keeps its network, and the reason must not be lost
        except Exception:
            outcome = settings, None, traceback.format_exc()
        with self._lock:
            if not self._closed:
                self._outcome = outcome
                self._finished.trigger()

    def _deliver(self) -> None:
        with self._lock:
            outcome, self._outcome = self._outcome, None
        if outcome is None:
            return
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._wanted is not None:  # another one was asked for meanwhile
            self._start()
            return
        self._done(*outcome)
