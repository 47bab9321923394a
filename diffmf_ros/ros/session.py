# SPDX-License-Identifier: Apache-2.0
"""The executor's half of the active node: what arrives is judged, paired, and sent to the worker.

Everything here runs in the one thread of the executor: more threads double the cost of receiving
images and quadruple the latency (measured).
"""

import time
from collections.abc import Callable
from dataclasses import replace

from rclpy.clock import Clock, ClockType, JumpThreshold
from rclpy.duration import Duration

from ..core.alignment.camera import CameraModel
from ..core.frames import RGB, THERMAL, Frame, FrameError, Issue
from ..core.settings import Settings
from ..core.sync.source_selector import Sources, SourceSelector
from .camera_watch import SILENT_S
from .filter_pairing import make_pairing
from .frame_loop import FrameFuser, Job, Worker
from .status import PERIOD_S, Counters, DiagnosticsPublisher, Snapshot, account
from .topics import Handlers, Inputs, Outputs
from .transforms import Transforms

REFRESH_S = 0.5
# The log says what has become of all frames after this time, then after twice as long, and so on.
FIRST_ACCOUNT_S = 60.0


class Session:
    """What lives between activate and deactivate.

    not_loaded: the issue of a network that could not be loaded, for the reports.
    """

    def __init__(self, node, settings: Settings, pipeline, outputs: Outputs):
        """Start fusing with pipeline into outputs.

        Raises DiffmfError for settings that cannot work here.
        """
        self._node, self._settings, self._pipeline, self._outputs = (node, settings, pipeline,
                                                                     outputs)
        self._pairing = make_pairing(settings.sync)
        self._selector = SourceSelector(settings.health, base=settings.alignment.output_grid)
        self._selector.sync = settings.sync
        self._calibrations: dict[str, CameraModel] = {}
        self._counters, self._received = Counters(), pipeline.received
        self._reporter = DiagnosticsPublisher(node, model=pipeline.description,
                                              device=pipeline.device)
        self.fuser = FrameFuser(node, pipeline, outputs, self._counters, settings)
        self.not_loaded: Issue | None = None
        self._sources = Sources.NONE
        self._thermal: Frame | None = None  # of the newest pair
        self._hold_note = ''
        self._complaints: dict[str, Issue | None] = {}
        self._logged_problems: set[str] = set()
        self._start_s, self._next_account_s = time.monotonic(), FIRST_ACCOUNT_S
        self._clock_fine_s = self._start_s
        self._transforms = Transforms.make(node, settings)
        self._handlers = Handlers(frame=self._on_frame, refused=self._on_refused,
                                  camera=self._on_camera, issue=self._complain,
                                  shutter=self._selector.thermal.shutter,
                                  depth_m=pipeline.aligner.set_depth_m)
        self._worker = Worker(self.fuser.handle, self.fuser.finish_last)
        self._worker.start()
        self._inputs: Inputs | None = Inputs(node, settings, self._handlers)
        # Publishers come and go in real time, also while a simulated clock stands.
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._timers = [node.create_timer(REFRESH_S, self._refresh, clock=steady),
                        node.create_timer(PERIOD_S, self._report)]
        self._jumps = node.get_clock().create_jump_callback(
            JumpThreshold(min_forward=None, min_backward=Duration(nanoseconds=-1),
                          on_clock_change=True),
            post_callback=lambda jump: self._forget())

    @property
    def enabled(self) -> bool:
        """Whether it listens to the cameras."""
        return self._inputs is not None

    def enable(self, on: bool) -> None:
        """Listen to the cameras, or stop listening: nothing is received, fused or published then.
        """
        if on == self.enabled:
            return
        if on:
            self._inputs = Inputs(self._node, self._settings, self._handlers)
        elif self._inputs is not None:
            self._inputs.destroy()
            self._inputs = None
        self._give_up_pairing()
        self._selector.reset()

    def apply(self, settings: Settings) -> None:
        """Work by other settings from the next frame on. The pipeline has them already."""
        before, self._settings = self._settings, settings
        self.fuser.settings = settings
        if settings.sync != before.sync:
            self._selector.sync = settings.sync
            self._give_up_pairing()
            so_far, self._pairing = self._pairing.dropped, make_pairing(settings.sync)
            self._pairing.dropped.update(so_far)
        self._selector.settings, self._selector.base = (settings.health,
                                                        settings.alignment.output_grid)
        if settings.alignment != before.alignment:
            self._use_calibrations()
            self._transforms.destroy()
            self._transforms = Transforms.make(self._node, settings)
            if not settings.alignment.depth_from_range:
                self._pipeline.aligner.set_depth_m(None)
        if _inputs_of(settings) != _inputs_of(before) and self.enabled:
            self.enable(False)
            self.enable(True)

    def replace_network(self, loaded) -> None:
        """Fuse with what pipeline.load() returned from the next image on."""
        self.not_loaded = None
        self.fuser.replace_network(loaded)

    def close(self) -> None:
        """Unsubscribe, join the worker, report a last time, let that and the last image arrive."""
        self._jumps.unregister()
        for timer in self._timers:
            self._node.destroy_timer(timer)
        if self._inputs is not None:
            self._inputs.destroy()
        self._transforms.destroy()
        self._give_up_pairing()
        if self._worker.stop():
            self._counters.drop('stopped', in_work=True)
        self.fuser.apply_pending_network()
        self._report()
        self._log_account()
        self._outputs.wait_until_received(self._reporter.publisher)
        self._reporter.destroy()

    def _give_up_pairing(self) -> None:
        """Count the frames that wait for a partner, and the pairs that were not yet certain."""
        for pair in self._pairing.flush():
            self._counters.count('pairs', reused=pair.thermal is self._thermal)
            self._thermal = pair.thermal
            self._counters.drop('stopped')

    def _on_frame(self, frame: Frame) -> None:
        now_ns = self._now_ns()
        clock_ns = self._node.get_clock().now().nanoseconds
        self._selector.streams[frame.stream].arrived(frame, now_ns, clock_ns=clock_ns)
        if not frame.stamp_ns:
            frame = replace(frame, stamp_ns=clock_ns)
        self._received[frame.stream] = frame
        pairs, reused = self._pairing.add(frame), 0
        for pair in pairs:
            if self._pipeline.scale.adapts:
                self._pipeline.scale.arrived(pair.rgb.stamp_ns)
            reused += pair.thermal is self._thermal
            self._thermal = pair.thermal
        selected = self._selector.select(frame, pairs, now_ns)
        self._counters.count(f'{frame.stream}_in', pairs=len(pairs), reused=reused,
                             in_work=len(selected))
        for work in selected:
            statuses = self._selector.statuses
            if self._worker.put(Job(work, statuses[RGB].state, statuses[THERMAL].state,
                                    self._selector.reason)):
                self._counters.drop('overtaken', in_work=True)
        if self._selector.latest is not self._sources:
            self._log_sources()

    def _log_sources(self) -> None:
        """Say in the log that other cameras are used than before."""
        self._sources = self._selector.latest
        said = ': '.join(filter(None, (f'using {self._sources.value}', self._selector.reason)))
        if self._sources is Sources.BOTH:
            self._node.get_logger().info(said)
        else:
            self._node.get_logger().warning(said)

    def _notes(self, now_ns: int) -> list[str]:
        """Return what is worth knowing and no complaint; what is new of it goes to the log."""
        hold_ms, rgb, thermal = self._pairing.hold_ms, self._selector.rgb, self._selector.thermal
        rgb_hz, thermal_hz = (stream.rate_hz(now_ns) if stream.status(now_ns).usable else 0.0
                              for stream in (rgb, thermal))
        note = hold_ms and rgb_hz and thermal_hz and (
            f'thermal comes at {thermal_hz:.1f} Hz, rgb at {rgb_hz:.1f} Hz: rgb frames between '
            f'are fused with the last thermal frame, up to {hold_ms:.0f} ms old')
        if note and not self._hold_note:
            self._node.get_logger().info(f'{note} (sync.hold_last_ms; 0: never)')
        self._hold_note = note or ''
        uncalibrated = [f'{stream} is not calibrated, by its camera info'
                        for stream in sorted(self.fuser.informed - self._calibrations.keys())]
        for text in uncalibrated:
            self._log_once(text, self._node.get_logger().info)
        return [*([note] if note else []), *uncalibrated]

    def _on_refused(self, stream: str, error: FrameError) -> None:
        self._counters.count(f'{stream}_in')
        self._selector.streams[stream].refused(self._now_ns())
        self.fuser.record_drop(error.reason, f'{stream} frame refused: {error}', stream=stream)

    def _on_camera(self, stream: str, camera: CameraModel | None) -> None:
        self._calibrations.pop(stream, None)
        if camera is not None:
            self._calibrations[stream] = camera
        self.fuser.informed.add(stream)
        self._pipeline.aligner.set_camera(stream, camera)
        self._use_calibrations()

    def _use_calibrations(self) -> None:
        """Give the calibrations of the images as they are, rectified or not, to what needs them.
        """
        alignment = self._settings.alignment
        rectified = {RGB: alignment.rgb_rectified, THERMAL: alignment.thermal_rectified}
        self.fuser.cameras = {stream: camera.rectified() if rectified[stream] else camera
                              for stream, camera in self._calibrations.items()}
        for stream, camera in self._calibrations.items():
            doubt = None if rectified[stream] else self._doubt(stream, camera)
            self._complain(f'{stream} rectified', doubt)

    def _complain(self, about: str, issue: Issue | None) -> None:
        """Keep an issue for the reports, or that there is none; a new one goes to the log."""
        if issue is not None and issue != self._complaints.get(about):
            self._node.get_logger().warning(issue.text)
        self._complaints[about] = issue

    def _doubt(self, stream: str, camera: CameraModel) -> Issue | None:
        """Say that images may be rectified, by the name of their topic, although nobody has said
        so; or None."""
        topic = '' if self._inputs is None else self._inputs.watches[stream].topic
        said = camera.doubt(topic, stream)
        return Issue('maybe_rectified', said, stream) if said else None

    def _now_ns(self) -> int:
        """The clock by which cameras are late: simulated time, or one that nobody sets."""
        clock = self._node.get_clock()
        return clock.now().nanoseconds if clock.ros_time_is_active else time.monotonic_ns()

    def _no_clock(self) -> Issue | None:
        """Return the issue of a simulated clock that nobody sets, or None."""
        clock, now_s = self._node.get_clock(), time.monotonic()
        if not clock.ros_time_is_active or clock.now().nanoseconds:
            self._clock_fine_s = now_s
        if now_s - self._clock_fine_s < SILENT_S:
            return None
        return Issue('no_clock', f'use_sim_time is true, but /clock has not come for '
                     f'{SILENT_S:g} s: start the simulator, or the bag with --clock, or set '
                     'use_sim_time to false')

    def _forget(self) -> None:
        """Time went back: nothing that came before counts."""
        self._pairing.reset()
        self._selector.reset()

    def _refresh(self) -> None:
        if self._inputs is not None:
            self._inputs.refresh()
        self._transforms.refresh(self.fuser.cameras, self._pipeline.aligner)
        self._complain('clock', self._no_clock())
        others = self._outputs.other_publishers()
        self._complain('output', Issue(
            'output_shared', f'{others} as well: the images of both come in turn; give each node '
            'a namespace of its own') if others else None)
        # a simulated clock stands, and with it the timer of the reports
        if self._reporter.overdue:
            self._report()

    def _report(self) -> None:
        now_ns = self._now_ns()
        watches = {} if self._inputs is None else self._inputs.watches
        if self.enabled:
            self._selector.sources(now_ns)  # without frames, this is where a camera is found lost
            if self._selector.latest is not self._sources:
                self._log_sources()
            for stream, watch in watches.items():
                watch.judge(self._selector.streams[stream], now_ns)
        if time.monotonic() - self._start_s >= self._next_account_s:
            self._next_account_s *= 2
            self._log_account()
        self._reporter.model, self._reporter.device = (self._pipeline.description,
                                                       self._pipeline.device)
        self._reporter.publish(
            self._totals(), scale=self._pipeline.scale.value,
            issues=self._issues(),
            selector=self._selector, now_ns=now_ns,
            incompatible=self._inputs.incompatible if self._inputs else None,
            memory=self._pipeline.memory(), notes=self._notes(now_ns), disabled=not self.enabled)

    def _totals(self) -> Snapshot:
        return self._counters.totals(self._pairing.dropped + self._selector.dropped,
                                     alone=self._selector.alone, waiting=self._pairing.pending)

    def _log_account(self) -> None:
        self._node.get_logger().info(account(self._totals(), self._selector,
                                             self._now_ns()))

    def _issues(self) -> list[Issue]:
        """Return what is amiss now, beside what the newest image shows."""
        degraded, log = self._pipeline.issues, self._node.get_logger()
        for issue in degraded:  # what is done without, such as kernels on a GPU
            self._log_once(issue.text, log.error)
        for issue in self.fuser.issues:  # a calibration that has come, and not for these images
            if issue.code == 'uncalibrated' and issue.stream in self.fuser.informed:
                self._log_once(issue.text, log.warning)
        found = [self.not_loaded, *degraded, *(self._inputs.issues if self._inputs else ()),
                 *self._complaints.values(), *self.fuser.issues, self._pipeline.scale.issue,
                 self._transforms.issue, *self._pipeline.aligner.issues]
        return [issue for issue in found if issue is not None]

    def _log_once(self, text: str, log: Callable[[str], object]) -> None:
        if text not in self._logged_problems:
            self._logged_problems.add(text)
            log(text)


def require_packages(settings: Settings) -> None:
    """Raise DiffmfError unless the ROS packages are installed that settings need."""
    make_pairing(settings.sync)
    Transforms.require(settings)


def _inputs_of(settings: Settings) -> tuple:
    return (settings.input, settings.qos, settings.max_pixels, settings.health.shutter_flag,
            settings.alignment.depth_from_range, settings.thermal.extra_rows_top,
            settings.thermal.extra_rows_bottom)
