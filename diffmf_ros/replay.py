# SPDX-License-Identifier: Apache-2.0
"""Fuse a recorded bag without ROS, threads or a clock: the same input gives the same bytes."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from .bag_messages import camera_info_message, image_message
from .bags import CAMERA_INFO, IMAGE, BagReader, BagWriter, frames, stamp_of
from .core.frames import FrameError, Pair
from .core.pairing import ClosestPairing
from .core.settings import SyncSettings
from .inference.pipeline import FusionPipeline

RGB_TOPIC, THERMAL_TOPIC, FUSED_TOPIC = '/rgb/image_raw', '/thermal/image_raw', '/fused/image'
FUSED_INFO_TOPIC = '/fused/camera_info'


@dataclass
class ReplayCounts:
    """What became of the frames of a bag; modes and dropped are counted by name and reason."""

    frames: int = 0
    pairs: int = 0
    modes: Counter = field(default_factory=Counter)
    dropped: Counter = field(default_factory=Counter)


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
             report: Callable[[Pair], None] = lambda pair: None) -> ReplayCounts:
    """Write the fused image and camera info of every pair; report(pair) is called after each.

    A message is recorded at the time at which the later frame of its pair was. The camera info is the
    first one beside rgb_topic, or uncalibrated when there is none of the image's size.
    """
    counts = ReplayCounts()
    calibration = _calibration(reader, f'{rgb_topic.rpartition("/")[0]}/camera_info')
    for pair in pairs_of(reader, sync, rgb_topic=rgb_topic, thermal_topic=thermal_topic, counts=counts):
        counts.pairs += 1
        try:
            result = pipeline.fuse(pair)
        except FrameError as error:
            counts.dropped[error.reason] += 1
            continue
        recorded_ns = max(pair.rgb.arrival_ns, pair.thermal.arrival_ns)
        image = image_message(result.pixels, result.encoding, stamp_ns=result.stamp_ns, frame_id=result.frame_id)
        writer.write(FUSED_TOPIC, IMAGE, image, recorded_ns)
        writer.write(FUSED_INFO_TOPIC, CAMERA_INFO, _camera_info(calibration, image), recorded_ns)
        counts.modes[result.mode.value] += 1
        report(pair)
    return counts


def _calibration(reader: BagReader, topic: str):
    """Return the first camera info on topic, or None."""
    if topic not in reader.topics:
        return None
    message = next(reader.messages([topic]))
    return reader.deserialize(message.raw, message.msgtype)


def _camera_info(calibration, image):
    if calibration is not None and (calibration.width, calibration.height) == (image.width, image.height):
        return replace(calibration, header=image.header)
    return camera_info_message(None, width=image.width, height=image.height, stamp_ns=stamp_of(image),
                               frame_id=image.header.frame_id)
