# SPDX-License-Identifier: Apache-2.0
"""Exported networks: every scan, the whole network and the engine against torch.

What is refused.
"""

import json
import subprocess
import sys

import cv2
import numpy as np
import pytest

torch = pytest.importorskip('torch', reason='torch is not installed')
onnx = pytest.importorskip('onnx', reason='onnx is not installed')
pytest.importorskip('onnxscript', reason='onnxscript is not installed')
onnxruntime = pytest.importorskip('onnxruntime', reason='onnxruntime is not installed')

from onnx import helper  # noqa: E402
from typer.testing import CliRunner  # noqa: E402

from diffmf_ros import models  # noqa: E402
from diffmf_ros.cli.main import application  # noqa: E402
from diffmf_ros.core.frames import Frame, Mode, Pair  # noqa: E402
from diffmf_ros.core.settings import DEFAULTS, with_changes  # noqa: E402
from diffmf_ros.inference import EngineError, NetworkFailure  # noqa: E402
from diffmf_ros.inference.engine import Engine  # noqa: E402
from diffmf_ros.inference.onnx_engine import (  # noqa: E402
    UNSEALED,
    OnnxEngine,
    seal,
)
from diffmf_ros.inference.pipeline import FusionPipeline  # noqa: E402
from diffmf_ros.inference.weights import load_weights, save_weights  # noqa: E402
from diffmf_ros.inference.weights_header import WeightsError, shipped  # noqa: E402
from diffmf_ros.models import scan  # noqa: E402
from diffmf_ros.models.kernels import reference  # noqa: E402
from diffmf_ros.tools.export import network as exporting  # noqa: E402
from diffmf_ros.tools.export import scans  # noqa: E402
from diffmf_ros.tools.export.network import ExportError, export, graph  # noqa: E402
from diffmf_ros.tools.export.scans import DOMAIN, OPSET  # noqa: E402

pytestmark = [pytest.mark.slow,
              pytest.mark.skipif(not hasattr(torch.onnx, 'ops'),
                                 reason='exporting needs torch 2.8 or newer')]

# Each kind of layer once or twice: the exporter's time grows with their number.
TINY = {
    's4fusion': models.PRESETS['s4fusion']['light']
    | {'width': 8, 'depths': (0, 1, 0), 'states': 2, 'cross_states': 3},
    'refinefuse': {'widths': (8, 8, 32, 32)},
}


def settings_for(path, **changes):
    return with_changes(DEFAULTS, {'preset': 'light', 'engine': 'onnx', 'weights': str(path),
                                   'threads': 1, **changes})


def scene(height, width):
    """A smooth textured luminance and a thermal image with a hot target, H x W float32 in [0, 1].
    """
    random = np.random.default_rng(3)
    vi_y, ir = (cv2.GaussianBlur(random.random((height, width), np.float32), (0, 0), sigma)
                for sigma in (1.5, 4))
    vi_y, ir = ((image - image.min()) / np.ptp(image) for image in (vi_y, ir))
    ir[height // 3:height // 2, width // 4:width // 2] = 0.95
    return ir, vi_y


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """The shipped network of the nano preset, exported for every size.

    The exporter's time grows with the layers: light, of the same kinds, takes it three times as
    long.
    """
    return export(tmp_path_factory.mktemp('export') / 'nano.onnx', model='diffmf', preset='nano')


@pytest.fixture(scope='module')
def engines(trained):
    """(onnxruntime's, torch's) for the trained network."""
    return OnnxEngine(settings_for(trained.path, preset='nano')), Engine(
        with_changes(DEFAULTS, {'preset': 'nano', 'precision': 'float32', 'threads': 1}))


@pytest.fixture(scope='module')
def nano(tmp_path_factory, shared_graphs):
    """The same network with the weights that it was exported from, for 50 x 40 pixels and what
    they are padded to, as tests of the command export it."""
    folder = tmp_path_factory.mktemp('nano')
    save_weights(folder / 'nano.safetensors', load_weights(shipped('diffmf', 'nano')).tensors,
                 model='diffmf', preset='nano', iterations=7, seed=5)
    return export(folder / 'nano.onnx', model='diffmf', preset='nano',
                  weights=folder / 'nano.safetensors', size=(50, 40))


@pytest.fixture(scope='module', params=TINY)
def fresh(request, tmp_path_factory):
    """(name, weight file) of a tiny random network, light for a while."""
    name, path = request.param, tmp_path_factory.mktemp(request.param) / 'fresh.safetensors'
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(models.PRESETS[name], 'light', TINY[name])
        torch.manual_seed(0)
        network = models.build(name, 'light')
        save_weights(path, dict(network.state_dict()), model=name, preset='light', iterations=1,
                     seed=0)
        yield name, path


def run_function(name, *inputs):
    """Run one of the project's ONNX functions on float32 tensors."""
    names = [f'input{i}' for i in range(len(inputs))]
    values = [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, list(x.shape)) for n,
              x in zip(names, inputs)]
    result = helper.make_tensor_value_info('result', onnx.TensorProto.FLOAT, None)
    proto = helper.make_model(
        helper.make_graph([helper.make_node(name, names, ['result'], domain=DOMAIN)], name, values,
                          [result]),
        functions=scans.functions(), ir_version=10,
        opset_imports=[helper.make_opsetid('', OPSET), helper.make_opsetid(DOMAIN, 1)])
    session = onnxruntime.InferenceSession(proto.SerializeToString(),
                                           providers=['CPUExecutionProvider'])
    return torch.from_numpy(session.run(None, {n: x.contiguous().numpy() for n,
                                               x in zip(names, inputs)})[0])


def relative_error(got, expected):
    """Largest error over the mean magnitude of what was expected.

    NaN and infinity stay what they are.
    """
    return float((got.double() - expected).abs().max() / expected.abs().mean())


@pytest.mark.parametrize('height, width, states',
                         [(1, 1, 1), (1, 9, 4), (7, 1, 2), (13, 21, 6), (48, 37, 1)])
@pytest.mark.parametrize('low_bias, high_bias', [(-7, -2), (-4, 9), (-120, 120)])
def test_ss2d_equals_the_loop(monkeypatch, height, width, states, low_bias, high_bias):
    # Given two images with records, and scans whose graph runs at once,
    monkeypatch.setattr(scans, 'call', run_function)
    torch.manual_seed(height + width)
    us, projs = torch.randn(2, 2, height, width, 8), torch.randn(2, 2, height, width, 4,
                                                                 3 + 2 * states)
    dynamics = (torch.randn(4, 8, 3) / 2, torch.empty(4, 8).uniform_(low_bias, high_bias),
                -torch.rand(4, 8, states) * 16, torch.randn(4, 8))
    # when one is scanned, and when both take turns,
    one, both = scans.ss2d(us[0], projs[0],
                           *dynamics), scans.interleaved_ss2d(us.unbind(), projs.unbind(),
                                                              *dynamics)
    # then each is what the loop over all tokens gives in float64.
    us, projs, *dynamics = (x.double() for x in (us, projs, *dynamics))
    assert relative_error(one, reference.ss2d(us[0], projs[0], *dynamics)) < 1e-5
    turns = scan.interleaved_ss2d(us, projs, *dynamics, backend='reference')
    assert max(map(relative_error, both, turns)) < 1e-5


@pytest.mark.parametrize('length', [1, 63, 64, 65, 4096, 4097, 8300])
@pytest.mark.parametrize('largest_delta, power', [(0.1, 1), (9.3, 4)])
def test_ssd_equals_the_loop(length, largest_delta, power):
    torch.manual_seed(length)
    x, B, C = torch.randn(2, length, 3, 4), torch.randn(2, length, 5), torch.randn(2, length, 5)
    delta, A = largest_delta * torch.rand(2, length, 3) ** power, -torch.tensor([0.01, 1.0, 16.0])

    y = run_function('SSD', x, delta, A, B, C)

    expected = reference.ssd_scan(*(t.double() for t in (x, delta, A, B, C)))
    assert relative_error(y, expected) < 1e-5


def test_ssd_small_after_large_decays():
    """SSD keeps small decays after large ones."""
    delta = torch.cat((torch.full((1, 40, 1), 50.0), torch.full((1, 200, 1), 1e-5)), dim=1)
    x, A = torch.ones(1, 240, 1, 1), torch.tensor([-16.0])
    B = C = torch.ones(1, 240, 1)

    y = run_function('SSD', x, delta, A, B, C)

    expected = reference.ssd_scan(*(t.double() for t in (x, delta, A, B, C)))
    assert ((y.double() - expected) / expected).abs().max() < 1e-6


def test_a_trained_network_equals_torch(trained):
    assert trained.largest_difference < 1e-5


@pytest.mark.parametrize('height, width', [(97, 131), (64, 48), (5, 3), (8, 8)])
def test_engine_equals_torch_every_size(engines, height, width):
    """The engine equals torch at every size."""
    fused, expected = (engine(*scene(height, width)) for engine in engines)

    assert fused.dtype == np.float32
    assert fused.shape == (height, width)
    assert np.abs(fused - expected).max() < 1e-5
    assert np.ptp(fused) > 0.3


@pytest.mark.parametrize('size, shapes',
                         [(None, [(97, 131), (64, 48), (5, 3)]), ((50, 40), [(40, 50), (38, 57)])])
def test_the_other_networks_equal_torch(fresh, tmp_path, size, shapes):
    # Given a network that was exported for every size or for one,
    name, weights = fresh
    written = export(tmp_path / 'fresh.onnx', model=name, preset='light', weights=weights,
                     size=size)
    engine = OnnxEngine(settings_for(written.path, model=name))
    torchs = Engine(with_changes(DEFAULTS, {'model': name, 'weights': str(weights),
                                            'precision': 'float32', 'threads': 1}))
    # when it fuses images that have to be padded, then it gives what torch gives, and neither
    # camera's image.
    assert written.size == (size and {'s4fusion': (61, 49), 'refinefuse': (64, 48)}[name])
    for images in (scene(*shape) for shape in shapes):
        fused, expected = engine(*images), torchs(*images)
        assert np.abs(fused - expected).max() < 1e-5
        assert min(np.abs(fused - image).max() for image in images) > 0.05


def test_file_standard_and_anonymous(trained):
    """The file holds standard operators and nothing of this machine."""
    data = trained.path.read_bytes()
    proto = onnx.load_from_string(data)

    assert {entry.domain for entry in proto.opset_import} == {''}
    assert len(proto.functions) == 0
    assert {node.domain for node in proto.graph.node} == {''}
    operators = {node.op_type for node in proto.graph.node}
    assert 'Scan' in operators
    assert not {name for name in operators if name.startswith('Sequence')
                or name in ('Loop', 'If')}
    assert all(not tensor.external_data for tensor in proto.graph.initializer)
    assert b'.py' not in data


def test_metadata_describe_the_file(nano):
    """The metadata say what the file is."""
    session = onnxruntime.InferenceSession(str(nano.path), providers=['CPUExecutionProvider'])

    metadata = session.get_modelmeta().custom_metadata_map

    assert {key: metadata[key] for key in ('format', 'model', 'preset', 'sides', 'iterations',
                                           'seed', 'size')} == {
        'format': 'diffmf_ros onnx 2', 'model': 'diffmf', 'preset': 'nano', 'sides': '16 0 0',
        'iterations': '7',
        'seed': '5', 'size': '{}x{}'.format(*nano.size)}
    assert len(metadata['sha256']) == len(metadata['weights_sha256']) == 64


def pair(height, width):
    random = np.random.default_rng(0)
    rgb = cv2.GaussianBlur(random.integers(0, 256, (height, width, 3), np.uint8), (0, 0), 2)
    thermal = random.integers(7000, 9000, (height // 2, width // 2), np.uint16)
    return Pair(Frame('rgb', 1, 'rgb', rgb, 'rgb8'),
                Frame('thermal', 1, 'thermal', thermal, 'mono16'), 0)


def test_a_pair_fuses_as_with_torch(trained):
    pipeline = FusionPipeline(settings_for(trained.path, preset='nano'))
    result = pipeline.fuse(pair(75, 101))

    expected = FusionPipeline(with_changes(DEFAULTS,
                                           {'preset': 'nano', 'precision': 'float32'})).fuse(
                                               pair(75, 101))
    assert (result.mode, result.warnings, pipeline.issues) == (Mode.FUSED, (), ())
    assert (pipeline.description, pipeline.device) == ('diffmf nano', 'onnxruntime cpu')
    assert np.abs(result.pixels.astype(int) - expected.pixels).max() <= 1


def test_a_machine_without_torch_fuses(trained, tmp_path):
    program = (
        'import sys; sys.modules.update(dict.fromkeys(("torch", "onnx", "safetensors", '
        '"rclpy")))\n'
        'import numpy as np\n'
        'from diffmf_ros.core.frames import Frame, Pair\n'
        'from diffmf_ros.core.settings import DEFAULTS, with_changes\n'
        'from diffmf_ros.inference.pipeline import FusionPipeline\n'
        'rgb = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)\n'
        'frames = Frame("rgb", 1, "rgb", rgb, "rgb8"), Frame("thermal", 1, "t", rgb[..., 0], '
        '"mono8")\n' 'onnx = {"preset": "nano", "engine": "onnx", "threads": 1}\n'
        f'settings = with_changes(DEFAULTS, onnx | {{"weights": {str(trained.path)!r}}})\n'
        'result = FusionPipeline(settings).fuse(Pair(*frames, 0))\n'
        'print(result.mode.value, result.pixels.shape, result.warnings)')

    done = subprocess.run([sys.executable, '-c', program], cwd=tmp_path, capture_output=True,
                          text=True, check=False)

    assert (done.stderr, done.stdout) == ('', 'FUSED (40, 50, 3) ()\n')


def test_fixed_size_takes_what_pads(nano):
    """A fixed size takes what pads to it and names what does not."""
    engine = OnnxEngine(settings_for(nano.path, preset='nano'))
    assert nano.size == (64, 48)
    for size in ((40, 50), (48, 64)):
        assert engine(*scene(*size)).shape == size
    with pytest.raises(NetworkFailure, match=r'exported for 64x48 pixels and cannot fuse 60x49; '
                       r'.*--size 64x64, or'):
        engine(*scene(49, 60))


def test_nonfinite_values_are_failure(nano):
    """Values that are not finite are a failure."""
    engine = OnnxEngine(settings_for(nano.path, preset='nano'))
    ir, vi_y = scene(40, 50)
    ir[3, 3] = np.nan

    with pytest.raises(NetworkFailure, match='not finite'):
        engine(ir, vi_y)


def changed_bytes(data):
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1:]


def metadata_without(data, **changes):
    """A whole file again, with metadata changed or (None) left out."""
    proto = onnx.load_from_string(data)
    metadata = {entry.key: entry.value
                for entry in proto.metadata_props} | {'sha256': UNSEALED} | changes
    del proto.metadata_props[:]
    for key, value in metadata.items():
        if value is not None:
            proto.metadata_props.add(key=key, value=value)
    return seal(proto.SerializeToString())


@pytest.mark.parametrize('change, words', [
    (changed_bytes, 'is damaged: its checksum does not match'),
    (lambda data: data[:-1000], 'was not written by `diffmf export --onnx`, or only a part'),
    (lambda data: b'PK\x03\x04' + bytes(100), 'was not written by `diffmf export --onnx`'),
    (lambda data: metadata_without(data, sha256=None),
     'was not written by `diffmf export --onnx`'),
    (lambda data: metadata_without(data, sides=None),
     'does not say what it is for: expected the metadata'),
    (lambda data: metadata_without(data, format='other'), "got format 'other'"),
    (lambda data: metadata_without(data, iterations='0'), 'untrained network'),
    (lambda data: metadata_without(data, preset='light'),
     'is for diffmf light, but diffmf nano was asked for'),
    (lambda data: seal(b'\x0a\x06sha256\x12\x40' + UNSEALED.encode()), 'cannot load'),
])
def test_incomplete_files_are_refused(nano, tmp_path, change, words):
    """Files that are not whole are refused."""
    path = tmp_path / 'changed.onnx'
    path.write_bytes(change(nano.path.read_bytes()))

    with pytest.raises(EngineError, match=words):
        OnnxEngine(settings_for(path, preset='nano'))


@pytest.mark.parametrize('changes, words', [
    ({'weights': ''}, 'write one with `diffmf export --onnx FILE`'),
    ({'weights': 'none.onnx'}, 'none.onnx does not exist'),
    ({'precision': 'float16'}, 'run in float32, not float16; use precision auto or float32, or '
     'engine torch'),
    ({'precision': 'bfloat16'}, 'run in float32, not bfloat16'),
    ({'scan_backend': 'cpu'}, 'scan_backend cpu belongs to engine torch'),
])
def test_impossible_settings_are_refused(nano, changes, words):
    """Settings that it cannot follow are refused."""
    with pytest.raises(EngineError, match=words):
        OnnxEngine(with_changes(settings_for(nano.path, preset='nano'), changes))


def test_cuda_without_its_provider_is_refused(nano, monkeypatch):
    monkeypatch.setattr(onnxruntime, 'get_available_providers', lambda: ['CPUExecutionProvider'])

    with pytest.raises(EngineError, match='has no CUDA provider; install onnxruntime-gpu, or use '
                       'device auto or cpu'):
        OnnxEngine(settings_for(nano.path, preset='nano', device='cuda'))


def test_provider_without_start_is_reported(nano, monkeypatch):
    """A provider that does not start is an issue or an error."""
    monkeypatch.setattr(onnxruntime, 'get_available_providers',
                        lambda: ['CUDAExecutionProvider', 'CPUExecutionProvider'])
    real = onnxruntime.InferenceSession
    monkeypatch.setattr(onnxruntime, 'InferenceSession', lambda data, options, providers: real(
        data, options, providers=providers[-1:]))

    engine = OnnxEngine(settings_for(nano.path, preset='nano'))

    assert engine.description == 'onnxruntime cpu'
    assert engine.problems == ('onnxruntime has a CUDA provider but could not start it: the '
                               'network runs on the CPU',)
    with pytest.raises(EngineError, match='could not start its CUDA provider'):
        OnnxEngine(settings_for(nano.path, preset='nano', device='cuda'))


def test_missing_onnxruntime_names_install(nano, monkeypatch):
    """A missing onnxruntime says what to install."""
    monkeypatch.setitem(sys.modules, 'onnxruntime', None)

    with pytest.raises(EngineError, match='cannot be imported .*; pip install onnxruntime'):
        OnnxEngine(settings_for(nano.path, preset='nano'))


def test_threads_reach_onnxruntime(nano, monkeypatch):
    seen = []
    real = onnxruntime.InferenceSession
    monkeypatch.setattr(onnxruntime, 'InferenceSession', lambda data, options, providers: (
        seen.append(options.intra_op_num_threads), real(data, options, providers=providers))[1])

    for threads in (0, 3):
        OnnxEngine(settings_for(nano.path, preset='nano', threads=threads))

    assert seen == [0, 3]


def test_differing_network_is_not_written(nano, tmp_path, monkeypatch):
    """A network that answers otherwise is not written."""
    monkeypatch.setattr(exporting, 'graph', lambda network, size: onnx.load(str(nano.path)))
    torch.manual_seed(1)
    other = tmp_path / 'other.safetensors'
    save_weights(other, dict(models.build('diffmf', 'nano').state_dict()), model='diffmf',
                 preset='nano', iterations=7, seed=5)

    with pytest.raises(ExportError,
                       match='onnxruntime and torch differ by .* nothing was written'):
        export(tmp_path / 'out.onnx', model='diffmf', preset='nano', weights=other, size=nano.size)

    assert not (tmp_path / 'out.onnx').exists()


def test_untrained_networks_are_not_exported(nano, tmp_path):
    """Networks without trained weights are not exported."""
    trained = nano.path.with_suffix('.safetensors')

    with pytest.raises(WeightsError, match='no trained weights for diffmf light-s4'):
        export(tmp_path / 'out.onnx', model='diffmf', preset='light-s4')
    with pytest.raises(ExportError, match='is for diffmf nano, but diffmf light was asked for'):
        export(tmp_path / 'out.onnx', model='diffmf', preset='light', weights=trained)
    with pytest.raises(ExportError, match='there is no folder'):
        export(tmp_path / 'none' / 'out.onnx', model='diffmf', preset='nano', weights=trained)


def test_unexportable_names_the_cause():
    """What cannot be exported is refused with the cause."""
    network = models.build('diffmf', 'nano').double()

    with pytest.raises(ExportError, match=r'cannot export this network: ScanError: .* in float32, '
                       r'not torch.float64'):
        graph(network, size=(16, 16))

    assert network.rounds[0].own_i[0].self_attention.backend == 'auto'


def test_the_command_says_what_it_wrote(nano, monkeypatch, tmp_path):
    asked = {}
    monkeypatch.setattr(exporting, 'export', lambda path,
                        **options: asked.update(path=path, **options) or nano)

    done = CliRunner().invoke(
        application(), ['export', '--onnx', str(nano.path), '--overwrite', '--preset', 'nano',
                        '--size', '50x40', '--json', str(tmp_path / 'told.json')])

    assert done.exit_code == 0, done.output
    assert asked == {'path': nano.path, 'model': 'diffmf', 'preset': 'nano',
                     'weights': shipped('diffmf', 'nano'),
                     'size': (50, 40)}
    assert 'diffmf nano for 64x48, ' in done.output
    assert f'at most {nano.largest_difference:.1e}' in done.output
    assert json.loads((tmp_path / 'told.json').read_text()) == {
        'out': str(nano.path), 'model': 'diffmf', 'preset': 'nano', 'size': [64, 48],
        'bytes': nano.path.stat().st_size, 'largest_difference': nano.largest_difference}


def test_command_refuses_invalid_size(nano):
    """The command refuses an invalid size."""
    done = CliRunner().invoke(application(),
                              ['export', '--onnx', str(nano.path), '--overwrite', '--size', 'big'])

    assert done.exit_code == 2
    assert 'WIDTHxHEIGHT' in done.output
