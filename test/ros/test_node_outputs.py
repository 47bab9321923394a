# SPDX-License-Identifier: Apache-2.0
"""What goes in and what comes out beside the fused image.

Compressed, calibrated, on either grid, debug pictures.
"""

import cv2
import numpy as np
import pytest
from rclpy.parameter import Parameter
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, Range
from std_msgs.msg import Bool

from diffmf_ros.ros import range_watch, topics
from diffmf_ros.ros.messages import make_header

DEBUG = ('aligned_thermal', 'side_by_side', 'overlay', 'mask')
EXTRINSICS = """
thermal_from_rgb:
  rotation: [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
  translation_m: [0.1, 0, 0]
"""


def pixels_of(image, channels=None):
    """Return the pixels of a raw image message."""
    shape = (image.height, image.width, channels) if channels else (image.height, image.width)
    return np.frombuffer(image.data, np.uint8).reshape(shape)


def calibrate(cameras, stream, size, *, focal_px):
    """Publish the calibration of an ideal camera until the node has it."""
    width, height = size
    info = CameraInfo(width=width, height=height, distortion_model='plumb_bob', d=[0.0] * 5,
                      k=[focal_px, 0.0, (width - 1) / 2, 0.0, focal_px, (height - 1) / 2, 0.0, 0.0,
                         1.0],
                      r=[1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0],
                      p=[focal_px, 0.0, (width - 1) / 2, 0.0, 0.0, focal_px, (height - 1) / 2, 0.0,
                         0.0, 0.0, 1.0, 0.0])
    info.header.frame_id = {'rgb': 'rgb', 'thermal': 'lwir'}[stream]
    cameras.publisher(CameraInfo, f'{stream}/camera_info').publish(info)
    known = cameras.node._session.fuser
    cameras.peer.wait_for(lambda: stream in known.cameras, 'the calibration')


def test_compressed_cameras_fuse_like_raw(make_cameras):
    """Compressed cameras are fused as raw ones are."""
    cameras = make_cameras(input__rgb_transport='compressed',
                           input__thermal_transport='compressed')
    cameras.next()
    rng = np.random.default_rng(1)
    rgb = cv2.GaussianBlur(rng.integers(0, 256, (48, 64, 3), dtype=np.uint8), (0, 0), 3)
    thermal = rng.integers(7000, 9000, (24, 32), dtype=np.uint16)
    for stream, image, suffix, form in (('rgb', rgb, '.jpg', 'bgr8; jpeg compressed bgr8'),
                                        ('thermal', thermal, '.png', '16UC1; png compressed ')):
        message = CompressedImage(header=make_header(cameras.stamp_ns, stream), format=form,
                                  data=cv2.imencode(suffix, image)[1].tobytes())
        cameras.publisher(CompressedImage, f'{stream}/image_raw/compressed').publish(message)

    fused = cameras.peer.wait_for(lambda: cameras.of(cameras.fused), 'a fused image')[0]

    assert (fused.width, fused.height, fused.encoding,
            fused.header.frame_id) == (64, 48, 'bgr8', 'rgb')
    assert cameras.state()['mode'] == 'CLASSICAL'


def test_a_cut_compressed_image_is_counted(make_cameras):
    cameras = make_cameras(input__rgb_transport='compressed')
    data = cv2.imencode('.jpg', np.random.default_rng(1).integers(0, 256, (48, 64, 3),
                                                                  dtype=np.uint8))[1].tobytes()
    message = CompressedImage(header=make_header(1, 'rgb'), format='jpeg',
                              data=data[:len(data) // 2])

    cameras.publisher(CompressedImage, 'rgb/image_raw/compressed').publish(message)

    cameras.peer.wait_for(lambda: 'rgb frame refused' in cameras.values().get('last_error', ''),
                          'the refusal')


def test_compressed_output_has_same_header(cameras):
    """The compressed output is the image under the same header."""
    received = cameras.peer.collect(CompressedImage, '/fused/image/compressed')
    cameras.fuse_until(lambda image: received, 'a compressed image')
    image = cameras.fuse_one()
    compressed = cameras.peer.wait_for(lambda: cameras.of(received), 'that of this stamp')[0]

    assert compressed.header == image.header
    decoded = cv2.imdecode(np.frombuffer(compressed.data, np.uint8), cv2.IMREAD_COLOR)
    gray = [cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY).astype(int)
            for picture in (decoded, pixels_of(image, 3))]
    assert decoded.shape == (48, 64, 3) and np.abs(gray[0] - gray[1]).mean() < 8


def test_debug_pictures_need_a_subscriber(cameras, monkeypatch):
    """Debug pictures are made only when somebody looks."""
    made = []
    for name in ('overlay', 'side_by_side'):
        work = getattr(topics, name)
        monkeypatch.setattr(topics, name, lambda *args, name=name,
                            work=work: made.append(name) or work(*args))
    cameras.fuse_one()
    cameras.fuse_one()
    assert made == []

    received = {name: cameras.peer.collect(Image, f'/fused/debug/{name}') for name in DEBUG}
    cameras.fuse_until(lambda image: all(received.values()), 'all debug pictures')
    fused = cameras.fuse_one()
    cameras.peer.wait_for(lambda: all(map(cameras.of, received.values())), 'all of one stamp')

    shown = {name: cameras.of(messages)[0] for name, messages in received.items()}
    assert {name: (image.width, image.height, image.encoding) for name,
            image in shown.items()} == {
        'aligned_thermal': (64, 48, 'mono8'), 'side_by_side': (192, 48, 'rgb8'),
        'overlay': (64, 48, 'rgb8'),
        'mask': (64, 48, 'mono8')}
    assert all(image.header == fused.header for image in shown.values())
    assert (pixels_of(shown['mask']) == 255).all()
    assert np.array_equal(pixels_of(shown['side_by_side'], 3)[:, 128:],
                          pixels_of(fused, 3)[..., ::-1])


def test_temperatures_have_fused_header(make_cameras):
    """Temperatures have the header of the fused image."""
    cameras = make_cameras(thermal__radiometric_unit='custom', thermal__kelvin_per_count=0.01,
                           thermal__kelvin_at_zero=210.0)
    received = cameras.peer.collect(Image, '/fused/temperature')
    cameras.fuse_until(lambda image: received, 'temperatures')

    fused = cameras.fuse_one()

    image = cameras.peer.wait_for(lambda: cameras.of(received), 'those of this stamp')[0]
    assert image.header == fused.header
    assert (image.width, image.height, image.encoding, image.step) == (64, 48, '32FC1', 256)
    celsius = np.frombuffer(image.data, np.float32)  # of counts from 7000 to 8999
    assert 210 + 70 - 273.15 - 0.01 <= celsius.min() < celsius.max() <= 210 + 90 - 273.15


def test_missing_temperatures_are_explained(cameras):
    """Why there are no temperatures is reported."""
    received = cameras.peer.collect(Image, '/fused/temperature')

    cameras.fuse_until(lambda image: 'set thermal.radiometric_unit' in cameras.message(),
                       'the reason')

    assert not received


def test_every_image_has_status(cameras):
    """Every image has a status of its own."""
    cameras.fuse_one()  # a camera counts as back with its second frame
    image = cameras.fuse_one()

    state = cameras.state()

    status = cameras.of(cameras.states)[0]
    assert status.header == image.header and len(status.status) == 1
    assert (state['mode'], state['rgb'], state['thermal'],
            state['held']) == ('CLASSICAL', 'OK', 'OK', 'false')
    assert float(state['offset_ms']) == 0 and state['model'] == 'classical'


def test_thermal_grid_header_and_calibration(make_cameras):
    """On the thermal grid the image has the thermal camera's header and calibration."""
    cameras = make_cameras(alignment__output_grid='thermal')
    calibrate(cameras, 'thermal', (64, 48), focal_px=100.0)

    image = cameras.fuse_one()

    assert (image.width, image.height, image.header.frame_id) == (32, 24, 'lwir')
    info = cameras.peer.wait_for(lambda: cameras.of(cameras.infos), 'a camera info')[0]
    assert info.header == image.header
    # 64x48 read out at half the size: a focal length of 50, the center in the middle.
    assert (info.width, info.height, info.k[0], info.k[2], info.p[6]) == (32, 24, 50.0, 15.5, 11.5)


def test_depth_and_trim_move_live(make_cameras, tmp_path, monkeypatch):
    """Depth and trim move the thermal image live."""
    monkeypatch.setattr(range_watch, 'OUTDATED_S', 60.0)  # of one reading
    path = tmp_path / 'rig.yaml'
    path.write_text(EXTRINSICS)
    cameras = make_cameras(alignment__file=str(path), alignment__depth_from_range=True,
                           alignment__plane_depth_m=10.0)
    # A baseline of 0.1 m and 100 px of focal length: 1 px at 10 m, 10 px at 1 m.
    calibrate(cameras, 'rgb', (64, 48), focal_px=100.0)
    calibrate(cameras, 'thermal', (64, 48), focal_px=100.0)
    received = cameras.peer.collect(Image, '/fused/debug/aligned_thermal')
    bar = np.full((48, 64), 20, np.uint8)
    bar[:, 32:] = 200

    cameras.fuse_until(lambda image: received, 'debug pictures')

    def edge():
        """Where the step that thermal shows between columns 31 and 32 is on the RGB grid now."""
        noise = np.random.default_rng(cameras.stamp_ns)
        cameras.next()
        cameras.rgb(noise.integers(60, 120, (48, 64, 3), dtype=np.uint8))
        cameras.thermal(bar + noise.integers(0, 10, bar.shape, dtype=np.uint8), 'mono8')
        shown = cameras.peer.wait_for(lambda: cameras.of(received), 'the aligned thermal image')[0]
        return int(np.argmax(np.diff(pixels_of(shown)[24].astype(int)))) + 1

    # X_thermal = X_rgb + 0.1 m: what is at column 32 in thermal is 1 px to the left in RGB at 10
    # m.
    assert edge() == 31
    ranges = cameras.publisher(Range, 'range')
    ranges.publish(Range(range=1.0, min_range=0.2, max_range=50.0))
    cameras.peer.wait_for(lambda: edge() == 22, 'the alignment of the plane at 1 m')
    # REP-117: nothing detected
    ranges.publish(Range(range=float('inf'), min_range=0.2, max_range=50.0))
    cameras.node.set_parameters([Parameter('alignment.trim_x_px', value=5.0)])
    assert edge() == 27


def test_closed_shutter_passes_rgb(make_cameras):
    """A closed shutter passes RGB on until it opens."""
    cameras = make_cameras(health__shutter_flag=True)
    cameras.fuse_one()
    shutter = cameras.publisher(Bool, 'thermal/shutter')

    shutter.publish(Bool(data=True))
    cameras.fuse_until(lambda image: cameras.state()['mode'] == 'RGB_ONLY', 'RGB alone')
    assert cameras.state()['thermal'] == 'FROZEN'

    shutter.publish(Bool(data=False))
    cameras.fuse_until(lambda image: cameras.state()['mode'] == 'CLASSICAL', 'fusion again')


def test_closed_shutter_ends_with_its_flag(make_cameras):
    """A shutter that was closed when health.shutter_flag was switched off holds nothing back."""
    cameras = make_cameras(health__shutter_flag=True)
    cameras.fuse_one()
    cameras.publisher(Bool, 'thermal/shutter').publish(Bool(data=True))
    cameras.fuse_until(lambda image: cameras.state()['mode'] == 'RGB_ONLY', 'RGB alone')

    cameras.node.set_parameters([Parameter('health.shutter_flag', value=False)])

    cameras.fuse_until(lambda image: cameras.state()['mode'] == 'CLASSICAL', 'fusion again')


def test_unstamped_frames_pair_by_arrival(make_cameras):
    """Frames without stamps are paired by arrival and the report says so."""
    cameras = make_cameras(sync__max_distance_ms=1000.0)
    cameras.stamp_ns = 0
    rng = np.random.default_rng(1)

    def fused():
        cameras.rgb(rng.integers(60, 120, (48, 64, 3), dtype=np.uint8))
        cameras.thermal(rng.integers(7000, 9000, (24, 32), dtype=np.uint16))
        return cameras.fused

    cameras.peer.wait_for(fused, 'a fused image')
    cameras.peer.wait_for(lambda: 'zero stamps' in cameras.values().get('notes', ''), 'a note')
    assert cameras.values()['notes'] == ('rgb: zero stamps: arrival time is used; '
                                         'thermal: zero stamps: arrival time is used')
    assert cameras.fused[0].header.stamp.sec > 0


def test_other_size_calibration_is_scaled(cameras):
    """A calibration of another size is scaled to the image."""
    calibrate(cameras, 'rgb', (128, 96), focal_px=100.0)

    cameras.fuse_one()

    info = cameras.peer.wait_for(lambda: cameras.of(cameras.infos), 'a camera info')[0]
    assert (info.width, info.height, info.k[0], info.k[2]) == (64, 48, 50.0, 31.5)


def test_camera_on_side_is_turned(make_cameras):
    """A camera on its side is turned with its calibration."""
    cameras = make_cameras(input__rgb_orientation='rotated_90', input__rgb_crop='64x40+0+8')
    cameras.fuse_one()
    calibrate(cameras, 'rgb', (64, 48), focal_px=100.0)

    image = cameras.fuse_one()

    info = cameras.peer.wait_for(lambda: cameras.of(cameras.infos), 'a camera info')[0]
    assert (image.width, image.height, info.width, info.height) == (40, 64, 40, 64)
    # The center was at (31.5, 23.5), in the crop at (31.5, 15.5): 15.5 rows from the top are 24 -
    # 0.5 from the right.
    assert (info.k[0], info.k[2], info.k[5]) == (100.0, 39 - 15.5, 31.5)


@pytest.mark.parametrize('color, encoding', [('gray', 'mono8'), ('jet', 'bgr8')])
def test_color_policy_sets_encoding(make_cameras, color, encoding):
    """The color policy decides on the encoding."""
    cameras = make_cameras(output__color=color)

    assert cameras.fuse_one().encoding == encoding


def test_two_rigs_do_not_mix(make_cameras):
    front, rear = make_cameras(namespace='/front'), make_cameras(namespace='/rear')
    image = front.fuse_one()
    rear.next()
    rear.fuse_one()

    assert front.of(front.fused) == [image] and len(front.fused) == 1 and len(rear.fused) == 1
    front.peer.wait_for(lambda: {s.name for r in front.reports for s in r.status} >= {
        'front/fusion_node: fusion', 'rear/fusion_node: fusion'}, 'a report of each')


def test_telemetry_rows_are_cut(make_cameras):
    """Telemetry rows are neither in the image nor in its calibration."""
    cameras = make_cameras(alignment__output_grid='thermal')
    info = CameraInfo(width=160, height=122, k=[150.0, 0.0, 80.0, 0.0, 150.0, 61.0, 0.0, 0.0, 1.0])
    cameras.publisher(CameraInfo, 'thermal/camera_info').publish(info)

    def fused():
        cameras.next()
        noise = np.random.default_rng(cameras.stamp_ns)
        heat = noise.integers(7000, 9000, (122, 160), dtype=np.uint16)
        heat[:2] = 0
        cameras.rgb(noise.integers(60, 120, (48, 64, 3), dtype=np.uint8))
        cameras.thermal(heat)
        return cameras.infos and cameras.infos[-1].k[0]

    cameras.peer.wait_for(fused, 'a calibrated image')
    assert (cameras.fused[-1].width, cameras.fused[-1].height) == (160, 120)
    assert (cameras.infos[-1].height, cameras.infos[-1].k[5]) == (120, 59.0)
