# SPDX-License-Identifier: Apache-2.0
"""One thread behind a one-slot mailbox: work is done on the newest item, nothing queues."""

import threading
from collections.abc import Callable
from typing import Any


class Worker:
    """Calls handle(item) in its own thread, always with the newest item put so far.

    handle must not raise: an exception would end the thread.
    """

    def __init__(self, handle: Callable[[Any], None]):
        self._handle = handle
        self._changed = threading.Condition()
        self._item: Any = None
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name='fusion')

    def start(self) -> None:
        """Start the thread; a worker starts once."""
        self._thread.start()

    def put(self, item: Any) -> bool:
        """Leave item for the thread; return True when it overtook one that was still waiting."""
        with self._changed:
            overtook = self._item is not None
            self._item = item
            self._changed.notify()
        return overtook

    def stop(self) -> bool:
        """Finish the item in work and join the thread; return True when one was waiting and is given up."""
        with self._changed:
            given_up = self._item is not None
            self._stopping = True
            self._changed.notify()
        self._thread.join()
        return given_up

    def _take(self) -> Any:
        with self._changed:
            self._changed.wait_for(lambda: self._stopping or self._item is not None)
            item, self._item = self._item, None
            return None if self._stopping else item

    def _run(self) -> None:
        while (item := self._take()) is not None:
            self._handle(item)
