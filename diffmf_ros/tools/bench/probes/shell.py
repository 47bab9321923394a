# SPDX-License-Identifier: Apache-2.0
"""Measures what a pair costs the node beside the network: `diffmf bench --shell` runs it where ROS
is installed.

From two received messages to three that are ready to be published, without the middleware on
either side, in turn with the usual way to write it (UsualFusion) in one process, at 30 Hz
on two cores. Prints one JSON object: milliseconds of every pair by stage of both ways, those of
processor time in all threads (which other processes of a busy machine do not touch), whether
message_filters is installed, and versions.
"""

import argparse
import json
import os
import platform
import time
from contextlib import suppress
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import numpy as np
from sensor_msgs.msg import Image

from ....core.alignment.camera import CameraModel
from ....core.frames import RGB, THERMAL, FusionResult, Pair
from ....core.settings import DEFAULTS, with_changes
from ....core.sync.source_selector import SourceSelector
from ....inference.pipeline import BegunPair
from ....inference.prepare import StageTimer
from ....ros import messages
from ....ros.filter_pairing import make_pairing
from ....ros.frame_loop import FrameFuser, Job
from ....ros.status import Counters
from ....ros.topics import Outputs
from .shared import (
    FRAMES,
    UsualFusion,
    homography,
    moving_images,
    synchronizer,
    timed_pipeline,
    write_alignment,
)

CORES = 2
WARM_UP = 10
PERIOD_NS = 1_000_000_000 // 30
LATER_NS = PERIOD_NS // 4  # by which thermal is out of step


class Ours:
    """All that the node does with two messages, but for receiving, publishing, and the network."""

    def __init__(self, size: tuple[int, int], alignment: str):
        settings = with_changes(DEFAULTS, {'model': 'classical', 'alignment.file': alignment})
        self._pairing, self._fallback = make_pairing(settings.sync), SourceSelector(
            settings.health)
        self._pipeline = _Watched(timed_pipeline(settings, watchdog=True, compute_ms=0.0))
        nowhere: Any = _Nowhere()
        self._fuser = FrameFuser(nowhere, self._pipeline, Outputs(nowhere), Counters(), settings)
        self._fuser.cameras = {RGB: CameraModel(size,
                                                ((500.0, 0.0, size[0] / 2),
                                                 (0.0, 500.0, size[1] / 2),
                                                       (0.0, 0.0, 1.0)),
                                                (0.1, -0.1, 0.0, 0.0, 0.0))}

    def __call__(self, rgb: Image, thermal: Image, stage: StageTimer) -> None:
        """Handle two messages; afterwards stage knows what took how long."""
        for job in (*self._receive(rgb, RGB, stage), *self._receive(thermal, THERMAL, stage)):
            self._pipeline.spent_ms = {}
            start = time.perf_counter()
            if self._fuser.handle(job):
                self._fuser.finish_last()
            handled_ms = 1e3 * (time.perf_counter() - start)
            stage.add(self._pipeline.spent_ms)
            stage.add({'messages': handled_ms - sum(self._pipeline.spent_ms.values())})

    def close(self) -> None:
        """End the thread of the network."""
        self._pipeline.close()

    def _receive(self, message: Image, stream: str, stage: StageTimer) -> list[Job]:
        fallback, now_ns = self._fallback, messages.stamp_ns(message.header.stamp)
        frame = messages.to_frame(message, stream, arrival_ns=now_ns)
        stage.lap('decode')
        fallback.streams[stream].arrived(frame, now_ns, clock_ns=now_ns)
        jobs = [Job(work, fallback.statuses[RGB].state, fallback.statuses[THERMAL].state,
                    fallback.reason)
                for work in fallback.select(frame, self._pairing.add(frame), now_ns)]
        stage.lap('pair')
        return jobs


class _Watched:
    """A pipeline that leaves in spent_ms how long a pair took, by stage.

    They add up to all of it.
    """

    def __init__(self, pipeline):
        self._pipeline = pipeline
        self._begun_ms = 0.0
        self.spent_ms: dict[str, float] = {}

    def __getattr__(self, name: str):
        return getattr(self._pipeline, name)

    def begin(self, pair: Pair, **options) -> BegunPair:
        """As FusionPipeline.begin."""
        start = time.perf_counter()
        begun = self._pipeline.begin(pair, **options)
        self._begun_ms = 1e3 * (time.perf_counter() - start)
        return begun

    def finish(self, begun: BegunPair) -> FusionResult:
        """As FusionPipeline.finish. 'network' is the conversion of its input alone: it takes no
        time."""
        start = time.perf_counter()
        result = self._pipeline.finish(begun)
        whole_ms = self._begun_ms + 1e3 * (time.perf_counter() - start)
        self.spent_ms = dict(result.timings_ms)
        self.spent_ms['rest'] = whole_ms - sum(self.spent_ms.values()) + self.spent_ms.pop(
            'network')
        return result


class _Nowhere:
    """A node, and all its publishers: nothing leaves it, nobody listens, and a failure is raised.
    """

    def create_lifecycle_publisher(self, message_type, topic, profile, **options):
        return self

    def publish(self, message) -> None:
        pass

    def get_subscription_count(self) -> int:
        return 0

    def get_fully_qualified_name(self) -> str:
        return '/fusion_node'

    def get_logger(self):
        return self

    def warning(self, text: str) -> None:
        raise RuntimeError(text)


class Usual:
    """The same by UsualFusion; without message_filters, all but the pairing."""

    def __init__(self, size: tuple[int, int]):
        self._fusion = UsualFusion(homography(size), lambda thermal, y: y)
        self._inputs: tuple = ()
        self._paired: tuple[Image, Image] | None = None
        with suppress(ImportError):
            from message_filters import SimpleFilter
            self._inputs = (SimpleFilter(), SimpleFilter())
            self._synchronizer = synchronizer(list(self._inputs), self._keep)

    @property
    def paired_by_message_filters(self) -> bool:
        return bool(self._inputs)

    def __call__(self, rgb: Image, thermal: Image, stage: StageTimer) -> None:
        """Handle two messages; afterwards stage knows what took how long."""
        if self._inputs:
            for source, message in zip(self._inputs, (rgb, thermal)):
                source.signalMessage(message)
            rgb, thermal = self._paired or (rgb, thermal)
            stage.lap('pair')
        self._fusion(rgb, thermal, stage)
        del stage.timings_ms['network']

    def _keep(self, rgb: Image, thermal: Image) -> None:
        self._paired = rgb, thermal


def measure(size: tuple[int, int], pairs: int) -> dict:
    """Return what main prints. Both ways take turns; the first WARM_UP pairs do not count."""
    images = moving_images(size, seed=0)
    with TemporaryDirectory() as folder:
        ours, usual = Ours(size, str(write_alignment(folder, size))), Usual(size)
    ways: dict[str, Ours | Usual] = {'diffmf_ros': ours, 'usual': usual}
    stages_ms: dict[str, dict[str, list[float]]] = {name: {} for name in ways}
    cpu_ms: dict[str, list[float]] = {name: [] for name in ways}
    start_s = time.monotonic()
    for index in range(WARM_UP + pairs):
        rgb, thermal = _stamped(images, index)
        for turn, (name, way) in enumerate(ways.items()):
            # At the cameras' rate: without pauses caches and the threads of OpenCV would still be
            # warm.
            due_s = start_s + (index + turn / len(ways)) * PERIOD_NS / 1e9
            time.sleep(max(0.0, due_s - time.monotonic()))
            stage, cpu_s = StageTimer(), time.process_time()
            way(rgb, thermal, stage)
            if index >= WARM_UP:
                cpu_ms[name].append(1e3 * (time.process_time() - cpu_s))
                for what, spent_ms in stage.timings_ms.items():
                    stages_ms[name].setdefault(what, []).append(spent_ms)
    ours.close()
    return {'stages_ms': stages_ms, 'cpu_ms': cpu_ms,
            'message_filters': usual.paired_by_message_filters,
            'versions': {'python': platform.python_version(), 'numpy': np.__version__,
                         'cv2': cv2.__version__}}


def _stamped(images: tuple[list[Image], list[Image]], index: int) -> list[Image]:
    """The next message of either camera."""
    pair = [stream[index % FRAMES] for stream in images]
    for message, later_ns in zip(pair, (0, LATER_NS)):
        message.header = messages.make_header((index + 1) * PERIOD_NS + later_ns,
                                              message.header.frame_id)
    return pair


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--size', default='640x512')
    parser.add_argument('--pairs', type=int, default=300)
    options = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))[:CORES]
    os.sched_setaffinity(0, cores)
    cv2.setNumThreads(len(cores))
    width, height = map(int, options.size.split('x'))
    print(json.dumps(measure((width, height), options.pairs)))
    return 0


if __name__ == '__main__':
    raise SystemExit(main())
