# SPDX-License-Identifier: Apache-2.0
"""The device path gives the picture of the host path.

Run on a CPU here, on CUDA too where there is one.
"""

from dataclasses import replace

import cv2
import numpy as np
import pytest
from two_cameras import rig

torch = pytest.importorskip('torch', reason='torch is not installed')

from diffmf_ros.core.alignment.geometry import Alignment, Mapping  # noqa: E402
from diffmf_ros.core.frames import RGB, THERMAL, Frame, FrameError, Pair  # noqa: E402
from diffmf_ros.core.imaging.thermal import levels_of  # noqa: E402
from diffmf_ros.core.settings import DEFAULTS, ThermalSettings, with_changes  # noqa: E402
from diffmf_ros.inference import NetworkFailure, cuda_backend  # noqa: E402
from diffmf_ros.inference.cuda_backend import CudaBackend, Plan  # noqa: E402
from diffmf_ros.inference.engine import Engine  # noqa: E402
from diffmf_ros.inference.image_tensors import ScaledFusion  # noqa: E402
from diffmf_ros.inference.prepare import CpuBackend, PreparedPair  # noqa: E402
from diffmf_ros.inference.working_size import AdaptiveScale, fuse_scaled  # noqa: E402
from diffmf_ros.models.scan import ScanError  # noqa: E402

DEVICES = ['cpu'] + ['cuda'] * torch.cuda.is_available()
TILTED = Alignment(((1.8, -0.063, 34.0), (0.063, 1.79, 12.0), (1e-5, -2e-5, 1.0)), (640, 480),
                   (320, 256))
RESIZED = Alignment.resize()
RGB_SIZES = {'vga': (480, 640), 'odd': (61, 83), 'single pixel': (1, 1)}
THERMAL_SIZES = {'lepton': (120, 160), 'odd and larger': (97, 131), 'flat': (1, 7)}


class Mix:
    """Stands for an engine: the fused image is seven tenths of the brighter source and three of
    the darker."""

    def __init__(self, device='cpu'):
        self.device = device

    def __call__(self, ir, y):
        return 0.7 * np.maximum(ir, y) + 0.3 * np.minimum(ir, y)

    def fuse_tensors(self, ir, y):
        return 0.7 * torch.maximum(ir, y) + 0.3 * torch.minimum(ir, y)


def scene(size, channels=0, seed=0):
    """A smooth picture in 0..1 with a few sharp edges: H x W or H x W x channels, float32."""
    noise = np.random.default_rng(seed).random((*size, channels or 1), np.float32)
    picture = cv2.GaussianBlur(noise, (0, 0), 4).reshape(noise.shape)
    picture = (picture - picture.min()) / max(np.ptp(picture), 1e-6)
    picture[size[0] // 3:size[0] // 2, size[1] // 4:size[1] // 2] *= 0.6
    return picture if channels else picture[..., 0]


def rgb_frame(size, encoding='rgb8'):
    channels = 0 if encoding == 'mono8' else 4 if 'a' in encoding else 3
    return Frame(RGB, 1, '', (255 * scene(size, channels, seed=1)).astype(np.uint8), encoding)


def thermal_frame(size, encoding='mono16'):
    heat = scene(size, seed=2)
    pixels = {'mono8': lambda: (255 * heat).astype(np.uint8),
              # beyond the largest int16
              'mono16': lambda: (31000 + 5000 * heat).astype(np.uint16),
              '32FC1': lambda: 15 + 30 * heat,
              'bgr8': lambda: (255 * scene(size, 3, seed=2)).astype(np.uint8)}[encoding]()
    return Frame(THERMAL, 2, '', pixels, encoding)


def run(path, pair, *, alignment=RESIZED, grid=RGB, black_hot=False, color='keep_chroma',
        scale=1.0):
    """(pixels, encoding) of pair."""
    levels = levels_of(pair.thermal.pixels, pair.thermal.encoding, ThermalSettings())
    mapping = alignment if isinstance(alignment, Mapping) else alignment.mapping(
        rgb_size=pair.rgb.size, thermal_size=pair.thermal.size, grid=grid)
    prepared = PreparedPair(pair, replace(levels, black_hot=black_hot), mapping,
                            with_changes(DEFAULTS, {'output.color': color}))
    return path.fuse(prepared, scale=scale)()


def on_both_paths(pair, *, device='cpu', engine=None, **about):
    """(image of the host path, image of the device path), as int."""
    engine = engine or Mix(device)
    (host, encoding), (there, same) = (run(path, pair, **about)
                                       for path in (CpuBackend(engine), CudaBackend(engine)))
    assert encoding == same
    return host.astype(int), there.astype(int)


def assert_equal_within_a_level(host, there, level=1, largest=3):
    assert host.shape == there.shape
    assert (np.abs(host - there) <= level).mean() >= 0.999
    assert np.abs(host - there).max() <= largest


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('alignment', [TILTED, RESIZED], ids=['homography', 'resize'])
@pytest.mark.parametrize('thermal_encoding', ['mono8', 'mono16', '32FC1', 'bgr8'])
@pytest.mark.parametrize('rgb_encoding', ['rgb8', 'bgr8', 'rgba8', 'bgra8', 'mono8'])
def test_encodings_match_host_path(rgb_encoding, thermal_encoding, alignment, device):
    """Every encoding gives the picture of the host path."""
    pair = Pair(rgb_frame((120, 160), rgb_encoding), thermal_frame((64, 80), thermal_encoding), 0)

    host, there = on_both_paths(pair, alignment=alignment, device=device)

    assert_equal_within_a_level(host, there)
    assert host.std() > 20


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('alignment', [TILTED, RESIZED], ids=['homography', 'resize'])
@pytest.mark.parametrize('thermal_size', THERMAL_SIZES.values(), ids=THERMAL_SIZES)
@pytest.mark.parametrize('rgb_size', RGB_SIZES.values(), ids=RGB_SIZES)
def test_sizes_match_host_path(rgb_size, thermal_size, alignment, device):
    """Every size gives the picture of the host path."""
    pair = Pair(rgb_frame(rgb_size), thermal_frame(thermal_size), 0)

    assert_equal_within_a_level(*on_both_paths(pair, alignment=alignment, device=device))


def mappings():
    """name -> mapping of 320x240 RGB and 160x128 thermal."""
    sizes = {'rgb_size': (320, 240), 'thermal_size': (160, 128)}
    plane = rig()
    plane = type(plane)(plane.rgb.scaled_to((320, 240)), plane.thermal.scaled_to((160, 128)),
                        plane.thermal_from_rgb)
    found = {}
    for grid in ('rgb', 'thermal'):
        found[f'resize, {grid}'] = RESIZED.mapping(**sizes, grid=grid)
        found[f'homography, {grid}'] = TILTED.mapping(**sizes, grid=grid)
        found[f'trimmed, {grid}'] = RESIZED.mapping(**sizes, grid=grid, trim_px=(9.5, -4.25))
        found[f'rig, {grid}'] = plane.mapping(5.0, grid=grid)
    return found


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('black_hot', [False, True])
@pytest.mark.parametrize('rgb_encoding, thermal_encoding',
                         [('rgb8', 'mono16'), ('bgra8', '32FC1'), ('mono8', 'mono8')])
@pytest.mark.parametrize('mapping', mappings().values(), ids=mappings())
def test_mappings_match_host_path(mapping, rgb_encoding, thermal_encoding, black_hot, device):
    """Every mapping on both grids gives the picture of the host path."""
    pair = Pair(rgb_frame((240, 320), rgb_encoding), thermal_frame((128, 160), thermal_encoding),
                0)

    about = {'alignment': mapping, 'black_hot': black_hot, 'device': device}
    host, there = on_both_paths(pair, **about)

    assert host.shape == (*mapping.size[::-1], 3)
    # Color that is warped is rounded twice: a level of red is up to two after luminance and
    # chroma, and the gain of the chroma is up to 1.5.
    level, largest = (1, 3) if mapping.grid == RGB else (2, 4)
    assert_equal_within_a_level(host, there, level, largest)
    assert_equal_within_a_level(*on_both_paths(pair, **about, color='raw_chroma'), level)
    assert_equal_within_a_level(*on_both_paths(pair, **about, color='gray'))
    assert host.std() > 20


@pytest.mark.parametrize('device', DEVICES)
def test_large_rgb_averaged_like_host(device):
    """Detail of a large RGB image is averaged as on the host."""
    fine = np.random.default_rng(0).integers(0, 256, (500, 700, 3), np.uint8)
    pair = Pair(Frame(RGB, 1, '', fine, 'rgb8'), thermal_frame((97, 131)), 0)
    mapping = RESIZED.mapping(rgb_size=(700, 500), thermal_size=(131, 97), grid='thermal',
                              trim_px=(1.0, 0.0))

    assert mapping.rgb.averaged == (140, 100)
    assert_equal_within_a_level(*on_both_paths(pair, alignment=mapping, device=device))


@pytest.mark.parametrize('path', [CpuBackend, CudaBackend])
@pytest.mark.parametrize('grid', ['rgb', 'thermal'])
def test_uncovered_grid_passes_unchanged(path, grid):
    """Where only the camera of the grid sees its image passes unchanged."""
    rgb, thermal = rgb_frame((240, 320)), thermal_frame((128, 160), 'mono8')
    mapping = RESIZED.mapping(rgb_size=(320, 240), thermal_size=(160, 128), grid=grid,
                              trim_px=(80.0, -60.0))

    pixels, _ = run(path(Mix()), Pair(rgb, thermal, 0), alignment=mapping)

    outside = ~mapping.seen
    own = rgb.pixels if grid == 'rgb' else np.repeat(thermal.pixels[..., None], 3, -1)
    assert 0.3 < outside.mean() < 0.6
    # color there and back rounds
    assert np.abs(pixels.astype(int) - own)[outside].max() <= 1 + (grid == 'rgb')
    assert np.abs(pixels.astype(int) - own)[mapping.seen].max() > 20


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('grid', ['rgb', 'thermal'])
@pytest.mark.parametrize('rgb_encoding', ['rgb8', 'bgr8', 'mono8'])
@pytest.mark.parametrize('color, shape',
                         [('keep_chroma', (3,)), ('raw_chroma', (3,)), ('gray', ()),
                                           ('inferno', (3,))])
def test_color_policies_match_host_path(color, shape, rgb_encoding, grid, device):
    """Every color policy gives the picture of the host path."""
    pair = Pair(rgb_frame((60, 80), rgb_encoding), thermal_frame((48, 64)), 0)

    host, there = on_both_paths(pair, color=color, grid=grid, device=device)

    assert host.shape == ((60, 80) if grid == 'rgb' else (48, 64)) + shape
    if color == 'inferno':  # a step of a palette can be several levels
        assert np.abs(host - there).max() <= 12 and (host == there).mean() > 0.9
    else:
        assert_equal_within_a_level(host, there)


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('grid', ['rgb', 'thermal'])
def test_live_mapping_change_is_cheap(grid, device, monkeypatch):
    """A live change of the mapping prepares nothing and is seen at once."""
    built = []
    program = cuda_backend.Program
    monkeypatch.setattr(cuda_backend, 'Program', lambda plan,
                        **more: built.append(plan) or program(plan, **more))
    pair = Pair(rgb_frame((240, 320)), thermal_frame((128, 160)), 0)
    there, host = CudaBackend(Mix(device)), CpuBackend(Mix())
    pictures = []

    for trim_px in ((3.0, 0.0), (-40.0, 25.0), (60.5, 3.25), (3.0, 0.0)):
        mapping = RESIZED.mapping(rgb_size=(320, 240), thermal_size=(160, 128), grid=grid,
                                  trim_px=trim_px)
        pictures.append(run(there, pair, alignment=mapping)[0])
        expected = run(host, pair, alignment=mapping)[0]
        assert_equal_within_a_level(expected.astype(int), pictures[-1].astype(int),
                                    level=1 if grid == RGB else 2)

    assert len(built) == 1
    assert np.array_equal(pictures[0], pictures[3]) and not np.array_equal(
        pictures[0], pictures[1])


@pytest.mark.parametrize('device', DEVICES)
def test_tables_keep_their_addresses(device):
    """Tables stay where a captured graph reads them."""
    path, pair = CudaBackend(Mix(device)), Pair(rgb_frame((60, 80)), thermal_frame((48, 64)), 0)
    addresses = set()

    for x in range(5):
        mapping = RESIZED.mapping(rgb_size=(80, 60), thermal_size=(64, 48), trim_px=(x + 1.0, 0.0))
        run(path, pair, alignment=mapping)
        program = path._prepared(Plan.of(pair, 1.0, mapping=mapping)).program
        addresses.add((program._warp.grid.data_ptr(), program._seen.data_ptr()))

    assert len(addresses) == 1 and path._prepared.cache_info().misses == 1


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('scale', [1.0, 0.5])
def test_network_matches_host_path(scale, device):
    """The network gives the picture of the host path."""
    engine = Engine(with_changes(DEFAULTS, {'device': device, 'precision': 'float32'}))
    pair = Pair(rgb_frame((46, 61)), thermal_frame((40, 52)), 0)

    host, there = on_both_paths(pair, alignment=TILTED, scale=scale, engine=engine)

    assert_equal_within_a_level(host, there)
    assert host.std() > 20


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('scale', [0.75, 0.5, 0.125])
@pytest.mark.parametrize('size', [(120, 160), (37, 53), (3, 5)])
def test_smaller_scale_matches_host_path(size, scale, device):
    """A smaller working size gives the picture of the host path."""
    pair = Pair(rgb_frame(size), thermal_frame((64, 80)), 0)

    assert_equal_within_a_level(*on_both_paths(pair, alignment=RESIZED, scale=scale,
                                               device=device))


@pytest.mark.parametrize('scale', [0.75, 0.5, 0.3])
@pytest.mark.parametrize('size', [(48, 64), (37, 53), (1, 9), (2, 2)])
def test_scaling_tensors_is_scaling_arrays(size, scale):
    ir, y = scene(size, seed=3), scene(size, seed=4)

    expected = fuse_scaled(Mix(), ir, y, scale=scale)
    tensors = (torch.from_numpy(image)[None, None] for image in (ir, y))
    scaled = ScaledFusion(size, scale=scale, device='cpu')(Mix().fuse_tensors, *tensors)

    assert np.abs(scaled[0, 0].numpy() - expected).max() < 1e-4


@pytest.mark.parametrize('device', DEVICES)
def test_nonfinite_thermal_matches_host_path(device):
    """What is not finite in thermal is read as on the host."""
    thermal = thermal_frame((64, 80), '32FC1')
    thermal.pixels[5, 5:8] = np.nan, np.inf, -np.inf
    thermal.pixels[40:, 60:] = np.nan
    flat = Frame(THERMAL, 2, '', np.full((64, 80), -12.5, np.float32), '32FC1')

    for frame in (thermal, flat):
        assert_equal_within_a_level(*on_both_paths(Pair(rgb_frame((64, 80)), frame, 0),
                                                   alignment=RESIZED,
                                                   device=device))


@pytest.mark.parametrize('device', DEVICES)
def test_padded_read_only_view(device):
    """A read-only view with padded rows is read right."""
    rgb, thermal = rgb_frame((60, 80)), thermal_frame((60, 80))
    padded = np.pad(rgb.pixels, ((0, 0), (0, 3), (0, 0)))[:, :80]
    padded.flags.writeable = False
    strided = Frame(RGB, 1, '', padded, 'rgb8')

    _, expected = on_both_paths(Pair(rgb, thermal, 0), alignment=RESIZED, device=device)
    _, there = on_both_paths(Pair(strided, thermal, 0), alignment=RESIZED, device=device)

    assert np.array_equal(there, expected)


@pytest.mark.parametrize('device', DEVICES)
def test_handed_out_image_stays_unchanged(device):
    """An image that was handed out is not changed by the next pair."""
    path = CudaBackend(Mix(device))
    thermal = thermal_frame((60, 80))

    def fuse(pixels):
        return run(path, Pair(Frame(RGB, 1, '', pixels, 'rgb8'), thermal, 0))[0]

    bright = fuse(np.full((60, 80, 3), 200, np.uint8))
    before = bright.copy()
    for value in (0, 10, 20):
        fuse(np.full((60, 80, 3), value, np.uint8))

    assert np.array_equal(bright, before) and bright.flags.writeable
    assert np.array_equal(fuse(np.full((60, 80, 3), 200, np.uint8)), before)


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('fault, words', [
    (lambda ir, y: ir * float('nan'), 'not finite'),
    (lambda ir, y: (_ for _ in ()).throw(RuntimeError('out of memory')),
     'RuntimeError: out of memory'),
    (lambda ir, y: (_ for _ in ()).throw(ScanError('too many elements')),
     'ScanError: too many elements')])
def test_failing_network_reports_and_recovers(fault, words, device):
    """A failing network is reported and the next pair is fused."""
    engine = Mix(device)
    engine.fuse_tensors = fault
    path = CudaBackend(engine)
    pair = Pair(rgb_frame((60, 80)), thermal_frame((60, 80)), 0)

    with pytest.raises(NetworkFailure, match=words):
        run(path, pair)

    engine.fuse_tensors = Mix(device).fuse_tensors
    other_size = Pair(rgb_frame((30, 40)), thermal_frame((60, 80)), 0)
    assert run(path, other_size)[0].shape == (30, 40, 3)


@pytest.mark.parametrize('pair, reason', [
    (Pair(Frame(RGB, 1, '', np.zeros((4, 4), np.uint16), 'mono16'), thermal_frame((4, 4)), 0),
     'not_8_bit'),
    (Pair(rgb_frame((4, 4)), Frame(THERMAL, 1, '', np.zeros((4, 4), np.uint8), 'yuv422'), 0),
     'not_8_bit'),
    (Pair(rgb_frame((4, 4)), Frame(THERMAL, 1, '', np.full((4, 4), np.nan, np.float32), '32FC1'),
          0),
     'no_finite_value')])
def test_refusals_match_host_path(pair, reason):
    """Frames that the host path refuses are refused alike."""
    messages = []
    for path in (CpuBackend(Mix()), CudaBackend(Mix())):
        with pytest.raises(FrameError) as caught:
            run(path, pair)
        assert caught.value.reason == reason
        messages.append(str(caught.value))
    assert messages[0] == messages[1]


def test_adaptive_steps_stay_ready():
    """Every step of the adaptive size stays ready."""
    assert cuda_backend.READY >= len(AdaptiveScale(1.0).steps)


def test_only_recent_sizes_stay_ready(monkeypatch):
    """Only the last few sizes stay ready."""
    monkeypatch.setattr(cuda_backend, 'READY', 4)
    built = []
    program = cuda_backend.Program
    monkeypatch.setattr(cuda_backend, 'Program', lambda plan,
                        **more: built.append(plan.size) or program(plan, **more))
    path = CudaBackend(Mix())

    def fuse(height):
        run(path, Pair(rgb_frame((height, 8)), thermal_frame((6, 8)), 0))

    for height in (4, 5, 6, 7, 4, 8, 4, 5):
        fuse(height)

    assert [size[0] for size in built] == [4, 5, 6, 7, 8, 5]


@pytest.mark.parametrize(('output', 'looked'), [
    ({}, True), ({'output.color': 'inferno'}, False), ({'output.warm_contrast': False}, False)])
def test_warm_objects_are_found_meanwhile(output, looked):
    """What the host needs of both cameras is there when the device has the fused image."""
    pair = Pair(rgb_frame((120, 160)), thermal_frame((120, 160)), 0)
    levels = levels_of(pair.thermal.pixels, 'mono16', ThermalSettings())
    mapping = RESIZED.mapping(rgb_size=pair.rgb.size, thermal_size=pair.thermal.size)
    prepared = PreparedPair(pair, levels, mapping, with_changes(DEFAULTS, output))

    CudaBackend(Mix()).fuse(prepared, scale=1.0)

    assert (vars(prepared).get('warm_view') is not None) == looked
