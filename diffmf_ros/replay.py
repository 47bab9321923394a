# SPDX-License-Identifier: Apache-2.0
"""Fuse a recorded bag without ROS, threads or a clock: the same input gives the same bytes."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from .bag_messages import image_message, model_message
from .bags import CAMERA_INFO, IMAGE, BagReader, BagWriter, frames
from .core.camera import CalibrationError, CameraModel, output_info
from .core.frames import RGB, THERMAL, FrameError, FusionResult, Pair
from .core.pairing import ClosestPairing
from .core.settings import SyncSettings
from .inference.pipeline import FusionPipeline

RGB_TOPIC, THERMAL_TOPIC, FUSED_TOPIC = '/rgb/image_raw', '/thermal/image_raw', '/fused/image'
FUSED_INFO_TOPIC = '/fused/camera_info'


@dataclass
class ReplayCounts:
    """What became of the frames of a bag; modes and dropped are counted by name and reason.

    problems: what was not as the settings ask for, a sentence each.
    """

    frames: int = 0
    pairs: int = 0
    modes: Counter = field(default_factory=Counter)
    dropped: Counter = field(default_factory=Counter)
    problems: set[str] = field(default_factory=set)


def pairs_of(reader: BagReader, sync: SyncSettings, *, rgb_topic: str = RGB_TOPIC,
             thermal_topic: str = THERMAL_TOPIC, counts: ReplayCounts | None = None) -> Iterator[Pair]:
    """Yield the pairs of a bag in the order of their stamps; bad frames are counted in counts.dropped."""
    counts = ReplayCounts() if counts is None else counts
    pairing = ClosestPairing(sync)
    for frame in frames(reader, rgb_topic, thermal_topic,
                        refused=lambda stream, error: counts.dropped.update([error.reason])):
        counts.frames += 1
        yield from pairing.add(frame)
    yield from pairing.flush()
    counts.dropped.update(pairing.dropped)


def fuse_bag(reader: BagReader, writer: BagWriter, pipeline: FusionPipeline, sync: SyncSettings, *,
             rgb_topic: str = RGB_TOPIC, thermal_topic: str = THERMAL_TOPIC,
             report: Callable[[Pair], None] = lambda pair: None,
             judge: Callable[[Pair, FusionResult], None] = lambda pair, result: None) -> ReplayCounts:
    """Write the fused image and camera info of every pair; report(pair) is called after each.

    judge gets every pair and what it was fused to.

    A message is recorded at the time at which the later frame of its pair was. The first camera infos beside the two
    image topics describe the cameras, also for the alignment. The info of the output grid's camera goes out at the
    size of the fused image; it is uncalibrated when there is none that fits, and counts.problems says why.
    """
    counts = ReplayCounts(problems={reader.note} - {''})
    cameras = {stream: _camera(reader, f'{topic.rpartition("/")[0]}/camera_info', counts)
               for stream, topic in ((RGB, rgb_topic), (THERMAL, thermal_topic))}
    for stream, camera in cameras.items():
        pipeline.aligner.set_camera(stream, camera)
    for pair in pairs_of(reader, sync, rgb_topic=rgb_topic, thermal_topic=thermal_topic, counts=counts):
        counts.pairs += 1
        try:
            result = pipeline.fuse(pair)
        except FrameError as error:
            counts.dropped[error.reason] += 1
            continue
        counts.problems.update(pipeline.aligner.problems)
        counts.problems.update(issue.text for issue in result.issues)
        recorded_ns = max(pair.rgb.arrival_ns, pair.thermal.arrival_ns)
        about = {'stamp_ns': result.stamp_ns, 'frame_id': result.frame_id}
        writer.write(FUSED_TOPIC, IMAGE, image_message(result.pixels, result.encoding, **about), recorded_ns)
        info = _info(cameras[result.grid], result, counts)
        size = result.pixels.shape[1::-1]
        writer.write(FUSED_INFO_TOPIC, CAMERA_INFO, model_message(info, size=size, **about), recorded_ns)
        counts.modes[result.mode.value] += 1
        judge(pair, result)
        report(pair)
    return counts


def _camera(reader: BagReader, topic: str, counts: ReplayCounts) -> CameraModel | None:
    """Return what the first camera info on topic says, or None."""
    if topic not in reader.topics:
        return None
    message = next(reader.messages([topic]))
    try:
        return CameraModel.from_info(reader.deserialize(message.raw, message.msgtype))
    except CalibrationError as error:
        counts.problems.add(f'{topic}: {error}')
        return None


def _info(camera: CameraModel | None, result: FusionResult, counts: ReplayCounts) -> CameraModel | None:
    """Return the calibration of a fused image, or None."""
    try:
        return camera and output_info(camera, result.pixels.shape[1::-1])
    except CalibrationError as error:
        counts.problems.add(f'{result.grid}: {error}; {FUSED_INFO_TOPIC} is uncalibrated')
        return None
