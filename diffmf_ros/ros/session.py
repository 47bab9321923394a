# SPDX-License-Identifier: Apache-2.0
"""The work of the active node: decode, pair, hand to the worker; the worker fuses and publishes.

Everything but _fuse runs in the one thread of the executor: more threads double the cost of receiving
images and quadruple the latency (measured).
"""

import time
import traceback
from functools import partial

from rclpy.clock import Clock, ClockType
from sensor_msgs.msg import CameraInfo, Image

from ..core.frames import RGB, THERMAL, DiffmfError, FrameError, FusionResult, Pair
from ..core.pairing import ClosestPairing
from . import messages, qos
from .status import PERIOD_S, Reporter, Tally
from .worker import Worker
from .working_scale import WorkingScale

REFRESH_S = 0.5
LOG_EVERY_S = 5.0
CAMERA_INFO = 'rgb/camera_info'


class Session:
    """What lives between activate and deactivate."""

    def __init__(self, node, settings, pipeline, image_out, info_out):
        """Start fusing: the pipeline's images go out on image_out, their camera info on info_out."""
        self._node = node
        self._pipeline = pipeline
        self._image_out, self._info_out = image_out, info_out
        self._pairing = ClosestPairing(settings.sync)
        self._scale = WorkingScale(settings)
        self._tally = Tally()
        self._reporter = Reporter(node, model=pipeline.description, device=pipeline.device)
        self._calibration: CameraInfo | None = None
        self._calibration_complaint = ''
        self._incompatible: dict[str, str] = {}
        self._logged_at: dict[str, float] = {}
        self._worker = Worker(self._fuse)
        self._worker.start()
        self._inputs = [
            self._input(Image, 'rgb/image_raw', partial(self._on_image, RGB), settings.qos),
            self._input(Image, 'thermal/image_raw', partial(self._on_image, THERMAL), settings.qos),
            self._input(CameraInfo, CAMERA_INFO, self._on_camera_info, settings.qos)]
        # Publishers come and go in real time, also while a simulated clock stands.
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._timers = [node.create_timer(REFRESH_S, self._refresh, clock=steady),
                        node.create_timer(PERIOD_S, self._report)]

    def close(self) -> None:
        """Unsubscribe, join the worker, publish a last report."""
        for timer in self._timers:
            self._node.destroy_timer(timer)
        for subscription in self._inputs:
            subscription.destroy()
        if self._worker.stop():
            self._tally.drop('stopped')
        self._report()
        self._reporter.destroy()

    def _input(self, message_type, topic, callback, settings) -> qos.MatchingSubscription:
        return qos.MatchingSubscription(
            self._node, message_type, topic, callback, reliability=settings.reliability,
            depth=settings.depth, on_incompatible=self._incompatible.__setitem__)

    def _on_image(self, stream: str, message: Image) -> None:
        self._tally.count(f'{stream}_in')
        try:
            frame = messages.to_frame(message, stream, arrival_ns=time.monotonic_ns())
        except FrameError as error:
            self._lose(error.reason, f'{stream} frame refused: {error}')
            return
        for pair in self._pairing.add(frame):
            self._tally.count('pairs')
            self._scale.arrived(pair)
            if self._worker.put(pair):
                self._tally.drop('overtaken')

    def _on_camera_info(self, message: CameraInfo) -> None:
        self._calibration = message

    def _fuse(self, pair: Pair) -> None:
        """Fuse one pair and publish it; runs in the worker thread."""
        start_ns = time.monotonic_ns()
        try:
            result = self._pipeline.fuse(pair, scale=self._scale.value)
            self._image_out.publish(messages.result_image(result))
            self._info_out.publish(self._camera_info(result))
        except FrameError as error:
            self._lose(error.reason, f'pair refused: {error}')
        except DiffmfError as error:
            self._lose('failed', f'fusion failed: {error}')
        except Exception as error:  # one bad pair must not end the stream
            self._lose('failed', f'fusion failed: {error!r}', details=traceback.format_exc())
        else:
            now_ns = time.monotonic_ns()
            arrival_ns = max(pair.rgb.arrival_ns, pair.thermal.arrival_ns)
            self._tally.fused(latency_ms=(now_ns - arrival_ns) / 1e6,
                              mode=result.mode.value, warnings=result.warnings)
            if self._scale.fused(result, busy_ms=(now_ns - start_ns) / 1e6):
                self._node.get_logger().info(f'working scale is now {self._scale.value:g}')

    def _camera_info(self, result: FusionResult) -> CameraInfo:
        """Return the RGB camera's calibration under the header of result, if it fits its size."""
        calibration = self._calibration
        height, width = result.pixels.shape[:2]
        complaint = ''
        if calibration is None:
            complaint = f'nothing received on {CAMERA_INFO}: fused/camera_info is uncalibrated'
        elif (calibration.width, calibration.height) != (width, height):
            complaint = (f'{CAMERA_INFO} is for {calibration.width}x{calibration.height}, the image has '
                         f'{width}x{height}: fused/camera_info is uncalibrated')
        self._calibration_complaint = complaint
        header = messages.make_header(result.stamp_ns, result.frame_id)
        return messages.make_camera_info(header, size=(width, height),
                                         calibration=None if complaint else calibration)

    def _lose(self, reason: str, error: str, *, details: str = '') -> None:
        """Count a loss, and log it unless one of the same reason was logged a moment ago."""
        self._tally.drop(reason, error=error)
        now_s = time.monotonic()
        if now_s - self._logged_at.get(reason, -LOG_EVERY_S) >= LOG_EVERY_S:
            self._logged_at[reason] = now_s
            self._node.get_logger().warning(f'{error}\n{details}' if details else error)

    def _refresh(self) -> None:
        for subscription in self._inputs:
            if subscription.refresh():
                self._incompatible.pop(subscription.topic, None)
                self._node.get_logger().info(f'{subscription.topic}: now {subscription.reliability}')

    def _report(self) -> None:
        complaints = [f'{topic}: a publisher offers incompatible {policy}'
                      for topic, policy in self._incompatible.items()]
        complaints += filter(None, (self._calibration_complaint, self._scale.complaint))
        self._reporter.publish(self._tally.totals(self._pairing.dropped), scale=self._scale.value,
                               complaints=complaints, problems=self._pipeline.problems)
