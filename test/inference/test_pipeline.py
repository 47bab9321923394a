# SPDX-License-Identifier: Apache-2.0
"""Pair -> FusionResult: what passes unchanged, what a failure gives, and any size."""

import re
import subprocess
import sys
import types

import numpy as np
import pytest
from conftest import texts

from diffmf_ros.core.alignment.geometry import Alignment
from diffmf_ros.core.frames import RGB, THERMAL, Frame, FrameError, Mode, Pair
from diffmf_ros.core.settings import DEFAULTS, with_changes
from diffmf_ros.inference import NetworkFailure
from diffmf_ros.inference.pipeline import FusionPipeline

CLASSICAL = with_changes(DEFAULTS, {'model': 'classical'})


def pair_of(rgb, thermal, rgb_encoding='rgb8', thermal_encoding='mono8'):
    return Pair(Frame(RGB, 7, 'rgb_optical', rgb, rgb_encoding),
                Frame(THERMAL, 9, 't', thermal, thermal_encoding), 2)


@pytest.fixture
def textured():
    random = np.random.default_rng(0)
    return pair_of(random.integers(0, 256, (48, 64, 3), np.uint8),
                   random.integers(0, 256, (24, 32), np.uint8))


@pytest.fixture
def engine_settings(tmp_path):
    """Settings of the light network with weights of one iteration: enough to run, not to look at.
    """
    torch = pytest.importorskip('torch', reason='torch is not installed')
    from diffmf_ros import models
    from diffmf_ros.inference.weights import save_weights
    torch.manual_seed(0)
    path = tmp_path / 'w.safetensors'
    save_weights(path, models.build('diffmf', 'light').state_dict(), model='diffmf',
                 preset='light', iterations=1, seed=0)
    return with_changes(DEFAULTS, {'preset': 'light', 'weights': str(path)})


@pytest.mark.parametrize('height, width', [(1, 1), (7, 30), (48, 64), (61, 73)])
@pytest.mark.parametrize('model, preset',
                         [('s4fusion', 'light'), ('s4fusion', 'base'), ('refinefuse', 'light')])
def test_the_sister_networks_take_every_size(tmp_path, model, preset, height, width):
    # Given a network that takes base and detail of thermal and adds 20 levels, everywhere,
    torch = pytest.importorskip('torch', reason='torch is not installed')
    from diffmf_ros import models
    from diffmf_ros.inference.weights import save_weights
    network = models.build(model, preset)
    last = network.final_conv if model == 's4fusion' else network.decode_1[2]
    torch.nn.init.zeros_(last.weight)
    with torch.no_grad():
        last.bias.copy_(torch.tensor([20 / 255] if preset == 'base' else [20, -20, 0, 20 / 255]))
    save_weights(tmp_path / 'w.safetensors', network.state_dict(), model=model, preset=preset,
                 iterations=1, seed=0)
    # when gray images of any size are fused,
    pipeline = FusionPipeline(with_changes(DEFAULTS,
                                           {'model': model, 'preset': preset,
                                            'health.detect_blind': False,
                                                 'weights': str(tmp_path / 'w.safetensors')}))
    thermal = np.random.default_rng(0).integers(0, 200, (height, width), np.uint8)
    result = pipeline.fuse(pair_of(np.zeros((height, width), np.uint8), thermal, 'mono8'))
    # then every pixel lies where it lay, or is what base paints.
    expected = np.full_like(thermal, 20) if preset == 'base' else thermal + 20
    assert (result.mode, result.warnings) == (Mode.FUSED, ())
    assert np.abs(result.pixels[..., 0].astype(int) - expected).max() <= 1


def test_result_keeps_rgb_header_and_size(textured):
    """Result keeps the header and size of the RGB frame."""
    result = FusionPipeline(CLASSICAL).fuse(textured)
    assert (result.stamp_ns, result.frame_id, result.encoding) == (7, 'rgb_optical', 'rgb8')
    assert (result.pixels.shape, result.pixels.dtype) == ((48, 64, 3), np.uint8)
    assert (result.mode, result.warnings) == (Mode.CLASSICAL, ())
    assert result.timings_ms.keys() == {'color', 'align', 'network'}


def test_color_is_from_rgb():
    """Color is that of the RGB image."""
    red = np.zeros((16, 16, 3), np.uint8)
    red[..., 0] = 150
    result = FusionPipeline(CLASSICAL).fuse(pair_of(red, np.zeros((16, 16), np.uint8)))
    r, g, b = result.pixels.reshape(-1, 3).mean(0)
    assert r > 100 and g < 20 and b < 20


def test_rgb_passes_outside_thermal(textured, tmp_path):
    """RGB passes where thermal does not see."""
    Alignment(((1.0, 0.0, 20.0), (0.0, 1.0, 10.0), (0.0, 0.0, 1.0)), (64, 48),
              (32, 24)).save(tmp_path / 'a.yaml')
    pipeline = FusionPipeline(with_changes(CLASSICAL,
                                           {'alignment.file': str(tmp_path / 'a.yaml')}))
    _, seen = pipeline.align(textured)
    difference = np.abs(pipeline.fuse(textured).pixels.astype(int) - textured.rgb.pixels)
    assert 0.1 < seen.mean() < 0.4
    assert difference[~seen].max() <= 2  # rounding of luminance and chroma to 8 bit
    assert difference[seen].mean() > 10


def test_unusable_frame_then_next_fuses(textured):
    """Unusable frame is refused and the next pair is fused."""
    pipeline = FusionPipeline(CLASSICAL)
    dead = pair_of(textured.rgb.pixels, np.full((24, 32), np.nan, np.float32),
                   thermal_encoding='32FC1')
    with pytest.raises(FrameError):
        pipeline.fuse(dead)
    assert pipeline.fuse(textured).mode == Mode.CLASSICAL


@pytest.mark.parametrize('size', [(1, 1), (3, 5), (37, 53), (48, 64)])
def test_network_takes_any_size(engine_settings, size):
    height, width = size
    random = np.random.default_rng(1)
    pair = pair_of(random.integers(0, 256, (height, width, 3), np.uint8),
                   random.integers(0, 256, size, np.uint8))
    result = FusionPipeline(engine_settings).fuse(pair)
    assert (result.mode, result.pixels.shape) == (Mode.FUSED, (height, width, 3))


def test_same_pair_same_pixels(engine_settings, textured):
    """The same pair gives the same pixels."""
    pipeline = FusionPipeline(engine_settings)
    assert np.array_equal(pipeline.fuse(textured).pixels, pipeline.fuse(textured).pixels)


def out_of_memory(network, ir, y):
    raise RuntimeError('out of memory')


def not_a_number(network, ir, y):
    return ir * float('nan')


def too_large_for_the_scan(network, ir, y):
    from diffmf_ros.models.scan import ScanError
    raise ScanError('it takes fewer than 2^29 elements')


@pytest.mark.parametrize('fault, words', [
    (out_of_memory, 'out of memory'), (not_a_number, 'not finite'),
    (too_large_for_the_scan, 'fewer than 2.29')])
def test_failing_network_falls_back_to_classical(engine_settings, textured, monkeypatch, fault,
                                                 words):
    """Failing network gives the classical picture and says so."""
    from diffmf_ros.models.diffmf import DiffMF
    pipeline = FusionPipeline(engine_settings)
    with monkeypatch.context() as patch:
        patch.setattr(DiffMF, 'forward', fault)
        result = pipeline.fuse(textured)
    assert result.mode == Mode.CLASSICAL
    assert re.search(words, result.warnings[0])
    assert np.array_equal(result.pixels, FusionPipeline(CLASSICAL).fuse(textured).pixels)
    assert pipeline.fuse(textured).mode == Mode.FUSED


@pytest.mark.slow
@pytest.mark.parametrize('library', ['torch', 'einops', 'safetensors'])
def test_missing_library_reports_classical(tmp_path, library):
    """Without a library every result says that it is classical.

    In a process of its own: modules that are taken away are missed by tests that come later.
    """
    code = f"""
import sys
sys.modules[{library!r}] = None
import numpy as np
from diffmf_ros.core.frames import RGB, THERMAL, Frame, Pair
from diffmf_ros.core.settings import DEFAULTS
from diffmf_ros.inference.pipeline import FusionPipeline
noise = np.random.default_rng(0).integers(0, 200, (48, 64), np.uint8)
pipeline = FusionPipeline(DEFAULTS)
frames = Frame(RGB, 1, '', noise, 'mono8'), Frame(THERMAL, 1, '', noise[::-1], 'mono8')
result = pipeline.fuse(Pair(*frames, 0))
print(result.mode.value, pipeline.description, result.warnings[0], sep='|')
"""

    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True,
                          timeout=120)

    mode, description, warning = done.stdout.strip().split('|')
    assert mode == 'CLASSICAL'
    assert f'needs {library}' in description and f'needs {library},' in warning
    assert 'pip install torch einops safetensors' in warning



class Recording:
    """An engine that keeps the sizes it was called with."""

    description = 'a stand-in'
    problems = ('the scan is slow today',)

    def __init__(self, device):
        self.device, self.sizes = device, []

    def __call__(self, ir, y):
        self.sizes.append(y.shape)
        return np.maximum(ir, y)

    def fuse_tensors(self, ir, y):
        self.sizes.append(tuple(y.shape[2:]))
        return ir.maximum(y)


@pytest.fixture
def stand_in(monkeypatch):
    """Return stand_in(device) -> (pipeline, its engine)."""
    def build(device='cpu', **changes):
        engine = Recording(device)
        monkeypatch.setattr('diffmf_ros.inference.network.make_engine', lambda settings: engine)
        return FusionPipeline(with_changes(DEFAULTS, changes)), engine
    return build


def test_scale_changes_with_settings(stand_in, textured):
    """The network gets the size that the settings name, from the next pair on."""
    pipeline, engine = stand_in(scale=0.5)

    for scale in (0.5, 1.0, 0.25):
        pipeline.update(with_changes(pipeline.settings, {'scale': scale}))
        result = pipeline.fuse(textured)
        assert (result.pixels.shape, result.scale) == ((48, 64, 3), scale)

    assert engine.sizes == [(24, 32), (48, 64), (12, 16)]


def test_oversized_image_refused_early(stand_in, textured):
    """An image over the limit is refused before any work."""
    pipeline, engine = stand_in(max_pixels=48 * 64 - 1)

    with pytest.raises(FrameError, match='at most 3071 pixels .max_pixels., got a rgb image of '
                       '64x48 = 3072; '
                                         'let the camera bin or crop, or raise '
                       'max_pixels') as caught:
        pipeline.fuse(textured)

    assert caught.value.reason == 'too_large'
    assert engine.sizes == []


def test_thermal_size_limit_is_inclusive(stand_in, textured):
    """A thermal image over the limit is refused and one at the limit is not."""
    pipeline, _ = stand_in(max_pixels=48 * 64)
    large = pair_of(textured.rgb.pixels, np.zeros((49, 64), np.uint8))

    with pytest.raises(FrameError, match='got a thermal image of 64x49'):
        pipeline.fuse(large)

    assert pipeline.fuse(textured).mode == Mode.FUSED


def test_problems_of_the_engine_are_shown(stand_in):
    assert texts(stand_in()[0].issues) == ('the scan is slow today',)
    assert FusionPipeline(CLASSICAL).issues == ()


def test_handed_out_images_stay_unchanged(stand_in, textured):
    """Images that were handed out are not changed by the next pair."""
    pipeline, _ = stand_in()
    first = pipeline.fuse(textured).pixels
    before = first.copy()

    pipeline.fuse(pair_of(255 - textured.rgb.pixels, 255 - textured.thermal.pixels))

    assert np.array_equal(first, before)


@pytest.mark.parametrize('device', ['cpu', 'cuda'])
def test_onnx_takes_host_arrays(monkeypatch, textured, device):
    """ONNX is asked for by the setting and takes host arrays on every device."""
    engine = Recording(device)
    module = types.SimpleNamespace(OnnxEngine=lambda settings: engine)
    monkeypatch.setitem(sys.modules, 'diffmf_ros.inference.onnx_engine', module)
    monkeypatch.setitem(sys.modules, 'torch', None)
    monkeypatch.delitem(sys.modules, 'diffmf_ros.inference.engine', raising=False)
    pipeline = FusionPipeline(with_changes(DEFAULTS, {'engine': 'onnx', 'weights': 'x.onnx'}))

    assert pipeline.fuse(textured).mode == Mode.FUSED
    assert pipeline.device == 'a stand-in' and engine.sizes == [(48, 64)]


def test_gpu_network_uses_device_path(stand_in, textured, monkeypatch):
    """A network on a GPU fuses on the device path."""
    pytest.importorskip('torch', reason='torch is not installed')
    made = []

    class Path:
        problems = ('no graph',)

        def __init__(self, engine):
            made.append(engine.device)

        def fuse(self, prepared, **about):
            raise NetworkFailure('the device is gone')

    monkeypatch.setattr('diffmf_ros.inference.cuda_backend.CudaBackend', Path)
    pipeline, _ = stand_in('cuda')

    result = pipeline.fuse(textured)

    assert made == ['cuda']
    assert texts(pipeline.issues) == ('the scan is slow today', 'no graph')
    assert (result.mode, result.warnings) == (
        Mode.CLASSICAL, ('the device is gone; this pair was fused classically',))


def test_cpu_half_precision_is_refused(engine_settings):
    """Half precision on a CPU is refused with the alternative."""
    from diffmf_ros.inference.engine import Engine, EngineError
    with pytest.raises(EngineError,
                       match='float16 on a CPU .* use precision auto, float32 or bfloat16'):
        Engine(with_changes(engine_settings, {'precision': 'float16', 'device': 'cpu'}))


def test_device_line_names_scan(engine_settings):
    """The device line names the scan that runs."""
    from diffmf_ros.inference.engine import Engine
    from diffmf_ros.models.kernels import cpu
    settings = with_changes(engine_settings, {'device': 'cpu', 'precision': 'float32'})
    fastest = 'portable' if cpu.unavailable() else 'cpu'
    assert Engine(settings).description == f'cpu float32, scan {fastest}'
    assert Engine(
        with_changes(settings,
                     {'scan_backend': 'reference'})).description == 'cpu float32, scan reference'


def test_unbuilt_compiled_scan_is_refused(engine_settings, monkeypatch):
    """Compiled scan is refused where it was not built."""
    from diffmf_ros.inference.engine import Engine, EngineError
    from diffmf_ros.models.kernels import cpu
    monkeypatch.setattr(cpu, 'unavailable', lambda: 'no compiler')
    with pytest.raises(EngineError,
                       match="scan backend 'cpu' cannot run: no compiler; use backend auto"):
        Engine(with_changes(engine_settings, {'scan_backend': 'cpu', 'device': 'cpu'}))


def test_cuda_without_a_gpu_is_refused(engine_settings):
    import torch

    from diffmf_ros.inference.engine import Engine, EngineError
    if torch.cuda.is_available():
        assert Engine(with_changes(engine_settings, {'device': 'cuda'})).device == 'cuda'
    else:
        with pytest.raises(EngineError, match='sees no CUDA device'):
            Engine(with_changes(engine_settings, {'device': 'cuda'}))
