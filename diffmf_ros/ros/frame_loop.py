# SPDX-License-Identifier: Apache-2.0
"""The frame loop: the newest pair or frame is fused in a thread of its own, and becomes an image
on the wire; another network is loaded aside meanwhile."""

import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from rclpy.node import Node

from ..core.alignment.camera import CameraModel
from ..core.frames import DiffmfError, Frame, FrameError, FusionResult, Issue, Pair
from ..core.settings import Settings
from ..core.sync.stream_health import StreamState
from . import status
from .topics import Outputs

if TYPE_CHECKING:
    from ..inference.pipeline import BegunPair


class Worker:
    """Calls handle(item) in its own thread, always with the newest item put so far.

    handle returns whether it left something for idle(), which is called there when nothing waits.
    Neither may raise: an exception would end the thread.
    """

    def __init__(self, handle: Callable[[Any], bool | None],
                 idle: Callable[[], None] = lambda: None):
        self._handle, self._idle = handle, idle
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
        """Finish the item in work and join the thread.

        Return True when one was waiting and is given up.
        """
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
            if self._handle(item) and self._item is None:
                self._idle()
        self._idle()


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


LOG_EVERY_S = 5.0


@dataclass(frozen=True)
class Job:
    """A pair, or the one frame that there is, with the state of both cameras when it was sent off.
    """

    work: Pair | Frame
    rgb: StreamState
    thermal: StreamState
    reason: str = ''


class FrameFuser:
    """Fuses jobs with pipeline and publishes what comes out; counts in counters.

    `settings` and `cameras` (the calibration of each stream that has one) are replaced by the
    session while it runs; `informed` has the streams of which a camera info has come;
    `issues` has what is amiss with the calibration and the temperatures of the last image.

    While the network works on a pair in its own thread, the image of the one before is finished
    and published in that of the worker: see handle and finish_last.
    """

    def __init__(self, node, pipeline, outputs: Outputs, counters: status.Counters,
                 settings: Settings):
        self.settings = settings
        self.cameras: dict[str, CameraModel] = {}
        self.informed: set[str] = set()
        self.issues: tuple[Issue, ...] = ()
        self._node, self._pipeline = node, pipeline
        self._outputs, self._counters = outputs, counters
        self._network = None
        self._last: tuple[Job, BegunPair, float] | None = None
        self._logged_at: dict[str, float] = {}
        self._issues: frozenset[str] = frozenset()

    def replace_network(self, loaded) -> None:
        """Let the next job be fused with what pipeline.load() has returned. Any thread."""
        self._network = loaded

    def apply_pending_network(self) -> None:
        """Swap in the network that waits, if there is one: between two jobs, or after the last."""
        network, self._network = self._network, None
        if network is not None:
            self._pipeline.swap(network)
            self._node.get_logger().info(f'now fusing with {self._pipeline.description} on '
                                         f'{self._pipeline.device}')

    def record_drop(self, reason: str, error: str, *, stream: str = '', details: str = '') -> None:
        """Count a loss, and log it unless one of the same reason was logged a moment ago.

        stream names the camera of a message that could not be decoded; without it a job is lost.
        Any thread.
        """
        self._counters.drop(reason, error=error, stream=stream, in_work=not stream)
        now_s = time.monotonic()
        if now_s - self._logged_at.get(reason, -LOG_EVERY_S) >= LOG_EVERY_S:
            self._logged_at[reason] = now_s
            self._node.get_logger().warning(f'{error}\n{details}' if details else error)

    def handle(self, job: Job) -> bool:
        """Fuse one job, and publish it, unless finish_last() is to do that: then return True.

        A failure costs this one only.
        """
        if self._network is not None:
            self.finish_last()
            self.apply_pending_network()
        start_s = time.monotonic()
        try:
            begun = self._pipeline.begin(job.work, meanwhile=partial(
                self.finish_last, beside=True)) if isinstance(job.work, Pair) else None
        except Exception as error:  # one bad pair must not end the stream
            self.finish_last()
            self._failed(error)
            return False
        if self._last is not None:
            self.finish_last()
        busy_s = time.monotonic() - start_s
        if begun is None or begun.alone:
            self._finish(job, begun, busy_s)
            return False
        self._last = job, begun, busy_s
        return True

    def finish_last(self, *, beside: bool = False) -> None:
        """Finish and publish the pair that was handled last, if that is still to be done.

        beside: the network works on the next one meanwhile, so that it costs that one no time.
        """
        last, self._last = self._last, None
        if last is not None:
            self._finish(*last, beside=beside)

    def _finish(self, job: Job, begun: 'BegunPair | None', busy_s: float, *,
                beside: bool = False) -> None:
        """Finish and publish a pair, or pass a frame on; count it, and log what began or ended.

        busy_s: for how long nothing else could be begun so far. beside: as for finish_last.
        """
        start_s = time.monotonic()
        try:
            result = (self._pipeline.pass_through(job.work) if begun is None
                      else self._pipeline.finish(begun))
            self._publish(job, result)
        except Exception as error:
            self._failed(error)
            return
        frames = (job.work.rgb, job.work.thermal) if isinstance(job.work, Pair) else (job.work,)
        arrival_ns = max(frame.arrival_ns for frame in frames)  # of the last one
        self._counters.fused(latency_ms=(time.monotonic_ns() - arrival_ns) / 1e6,
                             mode=result.mode.value, warnings=result.warnings,
                             issues=result.issues)
        issues = {issue.code: issue.text for issue in result.issues}
        if issues.keys() != self._issues:
            self._log_issues(issues)
        scale = self._pipeline.scale
        if not beside:
            busy_s += time.monotonic() - start_s
        if scale.adapts and scale.fused(result.mode, scale=result.scale, busy_ms=1e3 * busy_s):
            self._node.get_logger().info(f'working scale is now {scale.value:g}')

    def _failed(self, error: Exception) -> None:
        """Count and log why there is no image of a job."""
        if isinstance(error, FrameError):
            self.record_drop(error.reason, f'pair refused: {error}')
        elif isinstance(error, DiffmfError):
            self.record_drop('failed', f'fusion failed: {error}')
        else:
            self.record_drop('failed', f'fusion failed: {error!r}',
                             details=''.join(traceback.format_exception(error)))

    def _publish(self, job: Job, result: FusionResult) -> None:
        self.issues = self._outputs.publish(
            result, camera=self.cameras.get(result.grid), informed=result.grid in self.informed,
            jpeg_quality=self.settings.output.jpeg_quality)
        pair = job.work if isinstance(job.work, Pair) else None
        self._outputs.publish_status(status.status_message(
            result, name=f'{self._node.get_fully_qualified_name().lstrip("/")}: image',
            rgb=job.rgb,
            thermal=job.thermal, model=self._pipeline.description, scale=result.scale,
            reason=job.reason,
            offset_ms=None if pair is None else pair.offset_ns / 1e6,
            held=pair is not None and pair.held))
        if pair is not None:
            self._outputs.publish_views(result, pair.rgb.encoding)

    def _log_issues(self, issues: Mapping[str, str]) -> None:
        """Log what the images of the cameras show that is amiss, when it begins and when it ends.

        issues are the texts by code.
        """
        for code in issues.keys() - self._issues:
            self._node.get_logger().warning(issues[code])
        for code in self._issues - issues.keys():
            self._node.get_logger().info(f'no longer: {code}')
        self._issues = frozenset(issues)
