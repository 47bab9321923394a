# SPDX-License-Identifier: Apache-2.0
"""The Python front: arrays in, a fused array out, and an error for whatever cannot be fused."""

import gc
import re
import subprocess
import sys
import warnings
import weakref
from pathlib import Path

import numpy as np
import pytest

import diffmf_ros
from diffmf_ros.core.frames import RGB, THERMAL, Frame, Pair
from diffmf_ros.core.settings import DEFAULTS, iter_specs, with_changes
from diffmf_ros.inference.pipeline import FusionPipeline

HEIGHT, WIDTH = 48, 64
PAGE = (Path(__file__).parents[1] / 'docs' / 'python.md').read_text(encoding='utf-8')


@pytest.fixture
def rgb():
    """A textured scene, darker to the right: H x W x 3 uint8."""
    noise = np.random.default_rng(0).integers(0, 60, (HEIGHT, WIDTH, 3))
    return (noise + np.linspace(150, 40, WIDTH)[None, :, None]).astype(np.uint8)


@pytest.fixture
def thermal():
    """A warm body at the right, in counts of 14 bit: H/2 x W/2 uint16."""
    counts = np.random.default_rng(1).integers(7000, 7100, (HEIGHT // 2, WIDTH // 2))
    counts[8:16, 22:28] = 8000
    return counts.astype(np.uint16)


def test_import_is_light_until_used():
    """Importing the package loads nothing heavy and using it does."""
    code = ('import sys, diffmf_ros; '
            'print([name for name in ("torch", "cv2", "numpy", "rclpy", "yaml") if name in '
            'sys.modules]); print(callable(diffmf_ros.fuse), "rclpy" in sys.modules)')
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=60)
    assert done.stdout.split('\n')[:2] == ['[]', 'True False'], done.stderr


def test_public_names_only():
    """Every public name is there and others are not."""
    assert set(diffmf_ros.__all__) <= set(dir(diffmf_ros))
    assert all(getattr(diffmf_ros, name) for name in diffmf_ros.__all__)
    with pytest.raises(AttributeError, match="no attribute 'fused'"):
        _ = diffmf_ros.fused


@pytest.mark.parametrize('model', ['classical', 'diffmf'])
def test_result_matches_pipeline(rgb, thermal, model):
    """The result is that of the pipeline."""
    pair = Pair(Frame(RGB, 0, '', rgb, 'rgb8'), Frame(THERMAL, 0, '', thermal, 'mono16'),
                offset_ns=0)
    expected = FusionPipeline(with_changes(DEFAULTS, {'model': model, 'device': 'cpu'})).fuse(pair)

    fused = diffmf_ros.fuse(rgb, thermal, model=model, device='cpu')

    assert (fused.shape, fused.dtype) == ((HEIGHT, WIDTH, 3), np.uint8)
    assert (fused == expected.pixels).all()
    # And the warm body is brighter than in the visible image, the ground is not
    body, ground = np.s_[16:32, 44:56], np.s_[16:32, 4:16]
    assert fused[body].mean() > rgb[body].mean() + 20
    assert abs(fused[ground].mean() - rgb[ground].mean()) < 30


@pytest.mark.parametrize('settings, shape', [
    ({'input__rgb_crop': '20x10+0+0'}, (10, 20, 3)),
    ({'input__rgb_orientation': 'rotated_90'}, (WIDTH, HEIGHT, 3)),
    ({'alignment__output_grid': 'thermal'}, (HEIGHT // 2, WIDTH // 2, 3)),
])
@pytest.mark.filterwarnings('ignore::diffmf_ros.FusionWarning')
def test_page_names_grid_of_result(rgb, thermal, settings, shape):
    """What gives the result another grid than that of rgb is on the page."""
    assert diffmf_ros.fuse(rgb, thermal, model='classical', **settings).shape == shape
    grid = PAGE.split('The result has')[1].split('\n\n')[0]
    assert all(name in grid for name in settings)


def test_page_names_refused_settings():
    """What the page says is refused is, every setting of a group."""
    sentence, = re.findall('Settings that only concern the live node .* are refused', PAGE)
    for name in re.findall('`([^`]+)`', sentence):
        names = [item.name for item in iter_specs(DEFAULTS)
                 if item.name.startswith(name.removesuffix('*'))]
        assert names
        for setting in names:
            with pytest.raises(diffmf_ros.DiffmfError, match='of the live node alone'):
                diffmf_ros.Fuser(**{setting.replace('.', '__'): 1})


def test_bgr_in_gives_bgr_out(rgb, thermal):
    of_rgb = diffmf_ros.fuse(rgb, thermal, model='classical')
    of_bgr = diffmf_ros.fuse(rgb[:, :, ::-1], thermal, model='classical', order='bgr')
    assert np.abs(of_bgr[:, :, ::-1].astype(int) - of_rgb).max() <= 1


@pytest.mark.parametrize('change', [
    lambda rgb, thermal: (np.dstack([rgb, np.full((HEIGHT, WIDTH), 9, np.uint8)]), thermal),
    lambda rgb, thermal: (rgb, thermal.astype(np.float32)),
    lambda rgb, thermal: (rgb, thermal.astype('>u2')),
    lambda rgb, thermal: (np.asfortranarray(rgb), np.asfortranarray(thermal)),
    lambda rgb, thermal: (np.repeat(rgb, 2, axis=1)[:, ::2], np.repeat(thermal, 2, axis=0)[::2]),
])
def test_equal_values_equal_image(rgb, thermal, change):
    """The same values in other arrays give the same image."""
    fused = diffmf_ros.fuse(*change(rgb, thermal), model='classical')
    assert np.abs(fused.astype(int) - diffmf_ros.fuse(rgb, thermal, model='classical')).max() <= 1


def test_inputs_are_left_unchanged(rgb, thermal):
    """Inputs are left as they are also when they cannot be written to."""
    before = rgb.copy(), thermal.copy()
    rgb.flags.writeable = thermal.flags.writeable = False
    diffmf_ros.fuse(rgb, thermal, model='classical')
    assert (rgb == before[0]).all() and (thermal == before[1]).all()


def test_settings_change_the_image(rgb, thermal):
    black_hot = diffmf_ros.fuse(rgb, thermal, model='classical', thermal__polarity='black_hot')
    white_hot = diffmf_ros.fuse(rgb, thermal, model='classical')
    assert black_hot[16:32, 44:56].mean() < white_hot[16:32, 44:56].mean() - 20
    gray = diffmf_ros.fuse(rgb[:, :, 0], thermal.astype(np.uint8), model='classical',
                           output__color='gray')
    assert gray.shape == (HEIGHT, WIDTH)


def test_alignment_file_reread_on_change(rgb, thermal, tmp_path):
    """An alignment file is used and read again when it changes."""
    file = tmp_path / 'align.yaml'
    images = []
    for shift in (0.0, 20.0):
        file.write_text(f'rgb_from_thermal: [[2, 0, {-shift}], [0, 2, 0], [0, 0, 1]]\n'
                        f'rgb_size: [{WIDTH}, {HEIGHT}]\nthermal_size: '
                        f'[{WIDTH // 2}, {HEIGHT // 2}]\n')
        images.append(diffmf_ros.fuse(rgb, thermal, model='classical', alignment=file).astype(int))
    body = np.s_[18:30, 46:54]
    assert images[0][body].mean() > images[1][body].mean() + 20


def test_result_keeps_no_inputs(rgb, thermal):
    """A result does not keep the input arrays in memory."""
    fuser = diffmf_ros.Fuser(model='classical')
    arrays = [rgb.copy(), thermal.copy()]
    references = [weakref.ref(array) for array in arrays]

    result = fuser.fuse(*arrays)
    del arrays
    fuser.fuse(rgb, thermal)  # the fuser itself knows its last pair
    gc.collect()

    assert [reference() for reference in references] == [None, None]
    assert result.images is None and result.temperature() is None


def test_result_with_inputs_has_temperatures(rgb, thermal):
    fuser = diffmf_ros.Fuser(model='classical', thermal__radiometric_unit='centikelvin')

    result = fuser.fuse(rgb, thermal * 4, keep_inputs=True)

    assert result.images.thermal.shape == (HEIGHT, WIDTH)
    assert result.temperature().max() == pytest.approx(320 - 273.15, abs=0.1)


def test_passed_image_is_a_copy(rgb):
    """What one camera alone gives can be drawn on without changing the input."""
    rgb = np.tile(rgb, (3, 3, 1))
    with pytest.warns(diffmf_ros.FusionWarning):
        fused = diffmf_ros.fuse(rgb, np.full((72, 96), 90, np.uint8), model='classical')

    assert not np.may_share_memory(fused, rgb)


def test_passed_thermal_is_a_copy():
    """A gray image of thermal alone can be drawn on without changing the input."""
    gray = np.tile(np.linspace(0, 255, 96).astype(np.uint8), (72, 1))
    with pytest.warns(diffmf_ros.FusionWarning, match='rgb is black'):
        fused = diffmf_ros.fuse(np.zeros((72, 96, 3), np.uint8), gray, model='classical',
                                output__color='gray')

    assert (fused == gray).all() and not np.may_share_memory(fused, gray)


def test_one_picture_for_both_warns(rgb):
    """The same picture for both cameras is fused with a hint; unlike ones have none."""
    gray = rgb[:, :, 0].copy()
    with pytest.warns(diffmf_ros.FusionWarning, match='show the same picture: is one camera'):
        diffmf_ros.fuse(gray, gray.copy(), model='classical')
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        diffmf_ros.fuse(gray, np.roll(gray, 5, axis=1), model='classical')


def test_mask_of_nothing_is_fused(rgb, thermal):
    """A masked array whose mask is empty has nothing to lose."""
    fused = diffmf_ros.fuse(rgb, np.ma.array(thermal, mask=False), model='classical')

    assert type(fused) is np.ndarray
    assert (fused == diffmf_ros.fuse(rgb, thermal, model='classical')).all()


WRONG = {
    'masked rgb': (lambda rgb, thermal: (np.ma.masked_less(rgb, 60), thermal),
                   r'rgb: .*with a mask, which would be lost: use array.filled\(a value\)'),
    'masked thermal': (lambda rgb, thermal: (rgb, np.ma.masked_greater(
        thermal.astype(np.float32), 7900)), r'thermal: .*use array.filled\(numpy.nan\)'),
    'float of 0 to 1': (lambda rgb, thermal: (rgb / 255, thermal),
                        r'rgb: expected a uint8 .*got float64 .*255 \* rgb'),
    '16-bit rgb': (lambda rgb, thermal: (rgb.astype(np.uint16), thermal),
                   'rgb: .*got uint16 .*scale the values'),
    'channels first': (lambda rgb, thermal: (np.moveaxis(rgb, 2, 0), thermal),
                       r'moveaxis\(rgb, 0, -1\)'),
    'one channel': (lambda rgb, thermal: (rgb[:, :, :1], thermal), r'use rgb\[:, :, 0\]'),
    'two channels': (lambda rgb, thermal: (rgb[:, :, :2], thermal),
                     r'got uint8 of shape \(48, 64, 2\)'),
    'a batch': (lambda rgb, thermal: (rgb[None], thermal), 'one pair at a time'),
    'empty': (lambda rgb, thermal: (rgb[:0], thermal), 'rgb: .*it is empty'),
    'a file not read': (lambda rgb, thermal: (None, thermal), 'got NoneType; could its file not'),
    'a path': (lambda rgb, thermal: ('rgb.png', thermal), 'got str; read the file first'),
    'a list': (lambda rgb, thermal: (rgb.tolist(), thermal), r'got list; use numpy.asarray'),
    'no image': (lambda rgb, thermal: (None, thermal), 'got NoneType'),
    'thermal of colors': (lambda rgb, thermal: (rgb, rgb), 'thermal: expected .*false colors'),
    'thermal of one channel': (lambda rgb, thermal: (rgb, thermal[:, :, None]),
                               r'use thermal\[:, :, 0\]'),
    'thermal channels first': (lambda rgb, thermal: (rgb, thermal[None]), r'use thermal\[0\]'),
    'thermal of doubles': (lambda rgb, thermal: (rgb, thermal.astype(float)),
                           r'astype\(numpy.float32\)'),
    'thermal of int32': (lambda rgb, thermal: (rgb, thermal.astype(np.int32)), 'got int32'),
    'empty thermal': (lambda rgb, thermal: (rgb, thermal[:, :0]), 'thermal: .*it is empty'),
    'swapped': (lambda rgb, thermal: (thermal, rgb), 'rgb: expected a uint8'),
    'no finite value': (lambda rgb, thermal: (rgb, np.full((4, 4), np.nan, 'f4')),
                        'NaN and infinity alone'),
}


@pytest.mark.parametrize('change, words', WRONG.values(), ids=WRONG.keys())
def test_wrong_array_names_expectation(rgb, thermal, change, words):
    """A wrong array is an error that says what was expected."""
    with pytest.raises(diffmf_ros.InputError, match=words):
        diffmf_ros.fuse(*change(rgb, thermal), model='classical')


@pytest.mark.parametrize('settings, words', [
    ({'preset': 'huge'}, 'preset must be one of auto, light'),
    ({'scale': 3.0}, r'scale must lie in 0.125 to 1.0, got 3.0'),
    ({'scale': 'half'}, "scale must be of type float, got 'half'"),
    ({'thermal__polarty': 'black_hot'},
     r"unknown setting 'thermal__polarty', did you mean thermal__polarity\?"),
    ({'thermal.polarity': 'black_hot'}, 'stand for a dot: use thermal__polarity'),
    ({'threads': '2'}, "threads must be of type int, got '2'"),
    ({'weights': 3}, "weights must be of type str, got 3; as text it is '3' in Python"),
    ({'alignment': 'a\0'}, 'alignment.file has a null character'),
    ({'autostart': False}, 'autostart is a setting of the live node alone .*: leave it out'),
    ({'sync__thermal_offset_ms': 3.0, 'qos__depth': 2},
     'sync__thermal_offset_ms is .*leave it out; qos__depth is .*: leave it out$'),
    ({'zebra': 1}, "unknown setting 'zebra'; docs/parameters.md lists the settings"),
    ({'weights': 'none.safetensors'}, 'none.safetensors does not exist'),
    ({'alignment': 'none.yaml'}, 'none.yaml'),
    ({'order': 'grb', 'model': 'classical'}, "order must be one of rgb, bgr; got 'grb'"),
    ({'max_pixels': 10, 'model': 'classical'}, 'at most 10 pixels'),
])
def test_a_wrong_setting_is_an_error(rgb, thermal, settings, words):
    with pytest.raises(diffmf_ros.DiffmfError, match=words):
        diffmf_ros.fuse(rgb, thermal, **settings)


def test_blind_camera_warns_at_call(rgb):
    """A blind camera is a warning at the place of the call."""
    rgb = np.tile(rgb, (3, 3, 1))  # large enough to tell a flat image from a small one
    with pytest.warns(diffmf_ros.FusionWarning, match='thermal is flat') as caught:
        fused = diffmf_ros.fuse(rgb, np.full((72, 96), 90, np.uint8), model='classical')
    assert (fused == rgb).all()
    assert {warning.filename for warning in caught} == {__file__}


def test_stretched_thermal_warns_at_call(rgb, thermal):
    """What the alignment lacks is a warning, too."""
    with pytest.warns(diffmf_ros.FusionWarning, match='stretched to 64x48, as no alignment'):
        diffmf_ros.fuse(rgb, thermal[:8], model='classical')


def test_good_pair_gives_no_warning(rgb, thermal):
    """A pair that both cameras show, large enough to be judged, gives no warning."""
    thermal = thermal.repeat(2, 0).repeat(2, 1)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        diffmf_ros.fuse(rgb, thermal, model='classical')


def test_failed_fusion_is_an_error(rgb, thermal, monkeypatch):
    """A fusion that fails is an error and no image of one camera."""
    monkeypatch.setattr('diffmf_ros.core.imaging.classical.fuse', lambda *args, **kwargs: 1 / 0)
    with pytest.raises(diffmf_ros.DiffmfError, match='could not be fused: .*division by zero'):
        diffmf_ros.Fuser(model='classical')(rgb, thermal)


@pytest.mark.parametrize('stamp_ns', ['5', None, float('nan'), -5, 2 ** 63,
                                      True, np.timedelta64(5, 's'), np.datetime64(1, 'ns')])
def test_wrong_stamp_names_expectation(rgb, thermal, stamp_ns):
    """A stamp that is no whole number of nanoseconds is an error that says so."""
    with pytest.raises(diffmf_ros.InputError, match='stamp_ns: expected whole nanoseconds'):
        diffmf_ros.Fuser(model='classical')(rgb, thermal, stamp_ns=stamp_ns)


def test_closed_fuser_is_an_error(rgb, thermal):
    """A fuser that was closed says so; closing it twice changes nothing."""
    fuser = diffmf_ros.Fuser(model='classical', threads=np.int32(1))
    fuser.close()
    fuser.close()
    with pytest.raises(diffmf_ros.DiffmfError, match='was closed'):
        fuser(rgb, thermal)


FORKED = """
import os, sys, numpy, torch, diffmf_ros
torch.set_num_threads(2)
pair = numpy.eye(64, dtype='u1')[..., None].repeat(3, 2) * 200, numpy.eye(48, dtype='u1') * 90
torch.manual_seed(7)
before = torch.rand(1)
torch.manual_seed(7)
diffmf_ros.Fuser(model='diffmf', preset='nano', device='cpu')
assert torch.rand(1) == before, 'random numbers of the caller changed'
if not os.fork():
    try:
        diffmf_ros.Fuser(model='diffmf', preset='nano', device='cpu', precision='float32')
    except diffmf_ros.DiffmfError as error:
        print(error, flush=True)
    os._exit(0)
os.wait()
"""


def test_forked_process_does_not_hang():
    """In a process that was forked after the first network another one is an error."""
    pytest.importorskip('torch', reason='torch is not installed')
    done = subprocess.run([sys.executable, '-W', 'ignore', '-c', FORKED], capture_output=True,
                          text=True, timeout=120)
    assert 'was forked from one that has loaded a network' in done.stdout, done.stderr


def test_fuser_follows_a_stream(rgb, thermal):
    """A fuser says how it was done and follows a stream."""
    with diffmf_ros.Fuser(model='classical') as fuser:
        assert fuser.description == 'classical on cpu'
        first = fuser.fuse(rgb, thermal, stamp_ns=10**9)
        # The body gets warmer: the levels of a stream follow slowly, those of a single pair at
        # once
        hot = np.where(thermal > 7500, 8300, thermal).astype(np.uint16)
        of_stream = fuser.fuse(rgb, hot, stamp_ns=10**9 + 30_000_000).pixels.astype(int)
        alone = fuser(rgb, hot).astype(int)
    assert first.mode is diffmf_ros.Mode.CLASSICAL and first.timings_ms
    assert (of_stream != alone).any()
    assert (alone == diffmf_ros.fuse(rgb, hot, model='classical')).all()
