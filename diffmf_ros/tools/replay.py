# SPDX-License-Identifier: Apache-2.0
"""Fuse a recorded bag without ROS, threads or a clock: the same input gives the same bytes."""

from collections.abc import Callable, Iterator

from ..core.alignment.camera import CalibrationError, CameraModel, output_info
from ..core.frames import RGB, THERMAL, FrameError, FusionResult, Pair
from ..core.settings import SyncSettings
from ..core.sync.pairing import ClosestPairing
from ..inference.pipeline import FusionPipeline
from ..io.bag_messages import image_message, model_message
from ..io.bags import CAMERA_INFO, IMAGE, BagReader, BagWriter, frames
from .replay_counts import ReplayCounts

RGB_TOPIC, THERMAL_TOPIC, FUSED_TOPIC = '/rgb/image_raw', '/thermal/image_raw', '/fused/image'
FUSED_INFO_TOPIC = '/fused/camera_info'


def pairs_of(reader: BagReader, sync: SyncSettings, *, rgb_topic: str = RGB_TOPIC,
             thermal_topic: str = THERMAL_TOPIC, counts: ReplayCounts | None = None) -> Iterator[Pair]:
    """Yield the pairs of a bag in the order of their stamps; bad frames are counted in counts.dropped."""
    counts = ReplayCounts() if counts is None else counts
    pairing = ClosestPairing(sync)
    offsets_ns = {RGB: round(sync.rgb_offset_ms * 1e6), THERMAL: round(sync.thermal_offset_ms * 1e6)}
    for frame in frames(reader, rgb_topic, thermal_topic, refused=counts.refuse):
        counts.came(frame, offset_ns=offsets_ns[frame.stream])
        yield from pairing.add(frame)
    yield from pairing.flush()
    counts.unmatched(pairing.dropped, max_distance_ms=sync.max_distance_ms)


def fuse_bag(reader: BagReader, writer: BagWriter, pipeline: FusionPipeline, sync: SyncSettings, *,
             rgb_topic: str = RGB_TOPIC, thermal_topic: str = THERMAL_TOPIC,
             report: Callable[[Pair], None] = lambda pair: None,
             judge: Callable[[Pair, FusionResult], None] = lambda pair, result: None) -> ReplayCounts:
    """Write the fused image and camera info of every pair; report(pair) is called after each.

    judge gets every pair and what it was fused to.

    A message is recorded at the time at which the later frame of its pair was. The first camera infos beside the two
    image topics describe the cameras, also for the alignment. The info of the output grid's camera goes out at the
    size of the fused image; it is uncalibrated when there is none that fits, and counts.problems says why.

    Raises:
        ReplayError: nothing was fused; it says why.
        BagError: the bag cannot be read, or lacks a topic; or the other one cannot be written.
    """
    counts = ReplayCounts(problems={reader.note} - {''})
    cameras = {stream: _camera(reader, _info_topic(topic), counts)
               for stream, topic in ((RGB, rgb_topic), (THERMAL, thermal_topic))}
    for stream, camera in cameras.items():
        pipeline.aligner.set_camera(stream, camera)
    for pair in pairs_of(reader, sync, rgb_topic=rgb_topic, thermal_topic=thermal_topic, counts=counts):
        counts.pairs += 1
        try:
            result = pipeline.fuse(pair)
        except FrameError as error:
            counts.refuse('', error)
            continue
        counts.problems.update(pipeline.aligner.problems)
        counts.problems.update(issue.text for issue in result.issues)
        recorded_ns = max(pair.rgb.arrival_ns, pair.thermal.arrival_ns)
        about = {'stamp_ns': result.stamp_ns, 'frame_id': result.frame_id}
        writer.write(FUSED_TOPIC, IMAGE, image_message(result.pixels, result.encoding, **about), recorded_ns)
        info = _info(cameras[result.grid], result, counts)
        size = result.pixels.shape[1::-1]
        writer.write(FUSED_INFO_TOPIC, CAMERA_INFO, model_message(info, size=size, **about), recorded_ns)
        counts.fused(result)
        judge(pair, result)
        report(pair)
    counts.require_images()
    return counts


def _info_topic(topic: str) -> str:
    """Return the topic of the camera info beside an image topic, raw or compressed."""
    return f'{topic.removesuffix("/compressed").rpartition("/")[0]}/camera_info'


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
