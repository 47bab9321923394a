# SPDX-License-Identifier: Apache-2.0
"""A node in a process of its own, two scripted cameras in this one, and a record of what passes
the wire."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from conftest import REPORTS_S, Child, Peer, ros_domain
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rcl_interfaces.srv import SetParametersAtomically
from rclpy.parameter import Parameter
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Bool

from diffmf_ros.core.settings import DEFAULTS, iter_specs
from diffmf_ros.ros.messages import stamp_ns
from diffmf_ros.ros.qos import profile

from .cameras import (
    PERIOD_NS,
    RGB_SIZE,
    THERMAL_LATER_NS,
    THERMAL_SIZE,
    Behavior,
    Shot,
    healthy,
    rgb_message,
    thermal_message,
)

SOURCE_TIMEOUT_S = 0.4
COMPUTE_TIMEOUT_S = 1.0
NODE_DEADLINE_S = 60.0
PARAMETERS = {
    'preset': 'nano', 'device': 'cpu', 'threads': 1,
    'warm_up_size': f'{RGB_SIZE[0]}x{RGB_SIZE[1]}',
    'max_pixels': 2 * RGB_SIZE[0] * RGB_SIZE[1], 'qos.reliability': 'reliable', 'qos.depth': 10,
    'health.source_timeout_s': SOURCE_TIMEOUT_S, 'health.compute_timeout_s': COMPUTE_TIMEOUT_S,
    'health.shutter_flag': True,
    **{f'qos_overrides./fused/{topic}.publisher.depth': 10 for topic in ('image', 'status')}}


@dataclass(frozen=True)
class Output:
    """One message of fused/status: the tick whose frame it answers, when it came (monotonic), and
    how it was made."""

    tick: int
    at_ns: int
    mode: str
    values: dict[str, str]


@dataclass(frozen=True)
class Report:
    """One message of /diagnostics: after which tick and when it came (monotonic).

    Statuses by their last words.
    """

    tick: int
    at_ns: int
    statuses: dict[str, DiagnosticStatus]

    def says(self, status: str, level: bytes, words: str) -> bool:
        """Whether the status of this name has at least this level, and words in its message."""
        found = self.statuses.get(status)
        return found is not None and found.level >= level and words in found.message


@dataclass
class Record:
    """What passed the wire. Ticks before `fault` and from `good` on are healthy.

    headers and images are (stamp in ns, frame id) of fused/status and of fused/image. sent_ns
    tells when a tick was sent (monotonic), usable the ticks of the good frames of 'rgb' and
    'thermal', late_ns by how much the cameras were behind at worst, and waited_ns how long a
    thread of the node was ready and had no CPU, at most.
    """

    outputs: list[Output] = field(default_factory=list)
    reports: list[Report] = field(default_factory=list)
    headers: list[tuple[int, str]] = field(default_factory=list)
    images: list[tuple[int, str]] = field(default_factory=list)
    sent_ns: dict[int, int] = field(default_factory=dict)
    usable: dict[str, set[int]] = field(default_factory=lambda: {'rgb': set(), 'thermal': set()})
    late_ns: int = 0
    waited_ns: int = 0
    fault: int = 0
    good: int = 0

    @property
    def during_fault(self) -> list[Output]:
        """The answers to what was sent with the fault."""
        return [output for output in self.outputs if self.fault <= output.tick < self.good]

    @property
    def after_fault(self) -> list[Output]:
        """The answers to what was sent after the fault."""
        return [output for output in self.outputs if output.tick >= self.good]

    def ms(self, tick: int, at_ns: int) -> float:
        """Milliseconds from the sending of tick to at_ns."""
        return (at_ns - self.sent_ns[tick]) / 1e6

    def said(self, status: str, level: bytes, words: str) -> Report | None:
        """The first report since the fault began that says so: see Report.says."""
        return next((report for report in self.reports
                     if report.tick >= self.fault and report.says(status, level, words)), None)


class Rig:
    """Sends both cameras' messages tick by tick to the node in child, and records its answers.

    A stamp is the moment when its tick is due. A process that is late by more than a period does
    not catch up: it goes on from now, so that stamps always measure time.
    """

    def __init__(self, peer: Peer, child: Child, fault_file: Path):
        self.child = child
        self.record = Record()
        self.tick = 0
        self.peer, self._fault_file = peer, fault_file
        self._stamps_ns: dict[int, int] = {}
        self._ticks: dict[int, int] = {}
        self._due_ns = 0
        self._epoch_ns = time.time_ns() - time.monotonic_ns()
        self._reliability = 'reliable'
        self._images = self._cameras()
        self._parameters = peer.node.create_client(
            SetParametersAtomically, '/fusion_node/set_parameters_atomically')
        self._infos = {stream: self._publisher(CameraInfo, f'/{stream}/camera_info')
                       for stream in ('rgb', 'thermal')}
        self._shutter = self._publisher(Bool, '/thermal/shutter')
        for message_type, topic, callback in ((DiagnosticArray, '/fused/status', self._on_status),
                                              (Image, '/fused/image', self._on_image),
                                              (DiagnosticArray, '/diagnostics', self._on_report)):
            peer.node.create_subscription(message_type, topic, callback,
                                          profile('reliable', depth=100))
        peer.wait_for(lambda: child.process.poll() is not None
                      or all(p.get_subscription_count() for p in self._images.values()),
                      'the node to subscribe', timeout_s=NODE_DEADLINE_S)
        assert child.process.poll() is None, child.output

    def waited_ns(self) -> dict[str, int]:
        """How long each thread of the node has been ready without a CPU; empty: the kernel does
        not tell."""
        waited = {}
        for thread in Path(f'/proc/{self.child.process.pid}/task').glob('*/schedstat'):
            with suppress(OSError):  # a thread that has ended meanwhile
                waited[thread.parent.name] = int(thread.read_text().split()[1])
        return waited

    def break_network(self, fault: str) -> None:
        """Let the network of the node fail from its next call on; '': let it work."""
        self._fault_file.write_text(fault)

    def change(self, values: dict[str, object]) -> dict[str, object]:
        """Set parameters of the node; return what they are without that."""
        request = SetParametersAtomically.Request(parameters=[
            Parameter(name, value=value).to_parameter_msg() for name, value in values.items()])
        future = self._parameters.call_async(request)
        self.peer.wait_for(future.done, f'the answer to {values}')
        assert future.result().result.successful, future.result().result.reason
        as_started = {spec.name: spec.value for spec in iter_specs(DEFAULTS)} | PARAMETERS
        return {name: as_started[name] for name in values}

    def offer(self, reliability: str) -> None:
        """Send images from now on as drivers of this reliability would."""
        if reliability != self._reliability:
            self._reliability = reliability
            for publisher in self._images.values():
                self.peer.node.destroy_publisher(publisher)
            self._images = self._cameras()

    def close_shutter(self, closed: bool) -> None:
        """Publish the flag of the thermal driver."""
        self._shutter.publish(Bool(data=closed))

    def send(self, *, rgb: Behavior = healthy, thermal: Behavior = healthy,
             since: int = 0) -> None:
        """Send a tick of both cameras and receive until the next one is due; since: ticks since
        the fault began."""
        self._wait_until_due()
        tick = self.tick
        self.record.sent_ns[tick] = time.monotonic_ns()
        if tick % 10 == 0:
            self._send_infos()
        for stream, shots, make, later_ns in (('rgb', rgb(tick, since), rgb_message, 0),
                                              ('thermal', thermal(tick, since), thermal_message,
                                               THERMAL_LATER_NS)):
            for shot in shots:
                message = make(shot, self._stamps_ns[shot.tick] + later_ns)
                self._note(shot, stream, stamp_ns(message.header.stamp))
                self._images[stream].publish(message)
        self.tick += 1
        self._receive()

    def _wait_until_due(self) -> None:
        """Fix the stamp of this tick, and when the next one is due."""
        now_ns = time.monotonic_ns()
        late_ns = now_ns - self._due_ns
        if late_ns > PERIOD_NS:
            if self.record.sent_ns:
                self.record.late_ns = max(self.record.late_ns, late_ns)
            self._due_ns = now_ns
        self._stamps_ns[self.tick] = self._epoch_ns + self._due_ns
        self._due_ns += PERIOD_NS

    def _receive(self) -> None:
        while (left_ns := self._due_ns - time.monotonic_ns()) > 0:
            self.peer.executor.spin_once(timeout_sec=left_ns / 1e9)

    def _note(self, shot: Shot, stream: str, sent_stamp_ns: int) -> None:
        if sent_stamp_ns:
            self._ticks[sent_stamp_ns] = shot.tick
        if shot.usable:
            self.record.usable[stream].add(shot.tick)

    def _send_infos(self) -> None:
        for stream, (width, height) in (('rgb', RGB_SIZE), ('thermal', THERMAL_SIZE)):
            k = [100.0, 0.0, width / 2, 0.0, 100.0, height / 2, 0.0, 0.0, 1.0]
            info = CameraInfo(width=width, height=height, distortion_model='plumb_bob',
                              d=[0.0] * 5, k=k, r=[1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0],
                              p=[*k[:3], 0.0, *k[3:6], 0.0, *k[6:], 0.0])
            info.header.frame_id = f'{stream}_optical'
            self._infos[stream].publish(info)

    def _on_status(self, message: DiagnosticArray) -> None:
        values = {item.key: item.value for item in message.status[0].values}
        stamp = stamp_ns(message.header.stamp)
        # Without a stamp of ours it answers what was sent last.
        tick = self._ticks.get(stamp, self.tick - 1)
        self.record.outputs.append(Output(tick, time.monotonic_ns(), values['mode'], values))
        self.record.headers.append((stamp, message.header.frame_id))

    def _on_image(self, message: Image) -> None:
        self.record.images.append((stamp_ns(message.header.stamp), message.header.frame_id))

    def _on_report(self, message: DiagnosticArray) -> None:
        statuses = {status.name.rpartition(' ')[2]: status for status in message.status}
        self.record.reports.append(Report(self.tick - 1, time.monotonic_ns(), statuses))

    def _cameras(self) -> dict:
        return {stream: self._publisher(Image, f'/{stream}/image_raw')
                for stream in ('rgb', 'thermal')}

    def _publisher(self, message_type: type, topic: str):
        reliability = self._reliability if message_type is Image else 'reliable'
        return self.peer.node.create_publisher(message_type, topic,
                                               profile(reliability, depth=10))


@contextmanager
def started(folder: Path, *, reports_s: float = REPORTS_S) -> Iterator[Rig]:
    """Yield a Rig around faulty_node.py, on a ROS domain of its own; folder takes its log and
    fault file. reports_s: the time between two of its reports.

    Fails the test when the node has not survived, or does not stop cleanly.
    """
    fault_file = folder / 'fault'
    fault_file.write_text('')
    arguments = [text for name, value in PARAMETERS.items()
                 for text in ('-p', f'{name}:={_yaml(value)}')]
    with ros_domain(folder) as domain, pytest.MonkeyPatch.context() as environment:
        environment.setenv('FAULT_FILE', str(fault_file))
        environment.setenv('REPORTS_S', str(reports_s))
        environment.setenv('PYTHONPATH', str(Path(__file__).parents[1]), prepend=os.pathsep)
        child, peer = Child('faults.faulty_node', '--ros-args', *arguments,
                            log=folder / 'node.log'), Peer(domain)
        try:
            yield Rig(peer, child, fault_file)
            assert child.process.poll() is None, child.output
            assert child.stop() == 0, child.output
        finally:
            peer.close()
            child.kill()


def _yaml(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
