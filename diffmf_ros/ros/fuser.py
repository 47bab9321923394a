# SPDX-License-Identifier: Apache-2.0
"""The worker's half of the active node: a pair or a single frame becomes an image on the wire.

All of it but `replace_network` and the counters runs in the worker's thread.
"""

import time
import traceback
from dataclasses import dataclass

from ..core.alignment.camera import CameraModel
from ..core.frames import DiffmfError, Frame, FrameError, FusionResult, Pair
from ..core.settings import Settings
from ..core.sync.stream_health import StreamState
from . import status
from .outputs import Outputs
from .working_scale import WorkingScale

LOG_EVERY_S = 5.0


@dataclass(frozen=True)
class Job:
    """A pair, or the one frame that there is, with the state of both cameras when it was sent off."""

    work: Pair | Frame
    rgb: StreamState
    thermal: StreamState
    reason: str = ''

    @property
    def arrival_ns(self) -> int:
        """When the last of its frames arrived, on the monotonic clock."""
        if isinstance(self.work, Pair):
            return max(self.work.rgb.arrival_ns, self.work.thermal.arrival_ns)
        return self.work.arrival_ns


class Fuser:
    """Fuses jobs with pipeline and publishes what comes out; counts in tally.

    `settings`, `scale` and `cameras` (the calibration of each stream that has one) are replaced by the
    session while it runs; `informed` has the streams of which a camera info has come;
    `complaints` says what is wrong with the calibration of the last image.
    """

    def __init__(self, node, pipeline, outputs: Outputs, tally: status.Tally, settings: Settings):
        self.settings = settings
        self.scale = WorkingScale(settings)
        self.cameras: dict[str, CameraModel] = {}
        self.informed: set[str] = set()
        self.complaints: tuple[str, ...] = ()
        self._node, self._pipeline, self._outputs, self._tally = node, pipeline, outputs, tally
        self._network = None
        self._logged_at: dict[str, float] = {}
        self._issues: frozenset[str] = frozenset()

    @property
    def used_scale(self) -> float:
        """The working size of the next pair: as asked for, or smaller after the network has failed."""
        return min(self.scale.value, self._pipeline.largest_scale)

    def replace_network(self, loaded) -> None:
        """Let the next job be fused with what pipeline.load() has returned. Any thread."""
        self._network = loaded

    def take_network(self) -> None:
        """Swap in the network that waits, if there is one: between two jobs, or after the last."""
        network, self._network = self._network, None
        if network is not None:
            self._pipeline.swap(network)
            self._node.get_logger().info(f'now fusing with {self._pipeline.description} on {self._pipeline.device}')

    def lose(self, reason: str, error: str, *, stream: str = '', details: str = '') -> None:
        """Count a loss, and log it unless one of the same reason was logged a moment ago. Any thread."""
        self._tally.drop(reason, error=error, stream=stream)
        now_s = time.monotonic()
        if now_s - self._logged_at.get(reason, -LOG_EVERY_S) >= LOG_EVERY_S:
            self._logged_at[reason] = now_s
            self._node.get_logger().warning(f'{error}\n{details}' if details else error)

    def handle(self, job: Job) -> None:
        """Fuse and publish one job; a failure costs this one only."""
        self.take_network()
        start_ns = time.monotonic_ns()
        try:
            result = self._fuse(job.work)
            self._publish(job, result)
        except FrameError as error:
            self.lose(error.reason, f'pair refused: {error}')
        except DiffmfError as error:
            self.lose('failed', f'fusion failed: {error}')
        except Exception as error:  # one bad pair must not end the stream
            self.lose('failed', f'fusion failed: {error!r}', details=traceback.format_exc())
        else:
            self._note(job, result, busy_ms=(time.monotonic_ns() - start_ns) / 1e6)

    def _fuse(self, work: Pair | Frame) -> FusionResult:
        if isinstance(work, Pair):
            return self._pipeline.fuse(work, scale=self.scale.value)
        return self._pipeline.pass_through(work)

    def _publish(self, job: Job, result: FusionResult) -> None:
        camera = self.cameras.get(result.grid)
        complaint = self._outputs.publish(result, camera=camera, jpeg_quality=self.settings.output.jpeg_quality)
        if camera is None and result.grid in self.informed:
            complaint = ''  # its calibration is missing or not usable, which the session says
        elif camera is None:
            complaint = f'nothing received on {result.grid}/camera_info: fused/camera_info is uncalibrated'
        elif complaint:
            complaint = f'{result.grid}/camera_info: {complaint}; fused/camera_info is uncalibrated'
        no_temperature = self._outputs.publish_temperature(result, job.work, self._pipeline)
        self.complaints = tuple(filter(None, (complaint, no_temperature)))
        pair = job.work if isinstance(job.work, Pair) else None
        self._outputs.publish_status(status.status_message(
            result, name=f'{self._node.get_fully_qualified_name().lstrip("/")}: image', rgb=job.rgb,
            thermal=job.thermal, model=self._pipeline.description, scale=self.used_scale, reason=job.reason,
            offset_ms=pair and pair.offset_ns / 1e6, held=pair is not None and pair.held))
        if pair is not None:
            self._outputs.publish_views(result, pair, self._pipeline)

    def _note(self, job: Job, result: FusionResult, *, busy_ms: float) -> None:
        self._tally.fused(latency_ms=(time.monotonic_ns() - job.arrival_ns) / 1e6, mode=result.mode.value,
                          warnings=result.warnings, issues=result.issues)
        self._log_issues(result)
        if self.used_scale < self.scale.value:
            return  # after a failure it fuses smaller: that says nothing about the size that was asked for
        if self.scale.fused(result, busy_ms=busy_ms):
            self._node.get_logger().info(f'working scale is now {self.scale.value:g}')

    def _log_issues(self, result: FusionResult) -> None:
        """Say in the log what the images of the cameras show that is amiss, once when it begins and when it ends."""
        issues = {issue.code: issue.text for issue in result.issues}
        for code in issues.keys() - self._issues:
            self._node.get_logger().warning(issues[code])
        for code in self._issues - issues.keys():
            self._node.get_logger().info(f'no longer: {code}')
        self._issues = frozenset(issues)
