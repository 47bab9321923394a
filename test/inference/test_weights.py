# SPDX-License-Identifier: Apache-2.0
"""Weight files: what is refused, and with which words."""

import gc
import pickle
import sys

import pytest

torch = pytest.importorskip('torch', reason='torch is not installed')

import safetensors  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

from diffmf_ros import models  # noqa: E402
from diffmf_ros.core.settings import DEFAULTS, with_changes  # noqa: E402
from diffmf_ros.inference import EngineError, onnx_engine  # noqa: E402
from diffmf_ros.inference.engine import Engine  # noqa: E402
from diffmf_ros.inference.network import name_of  # noqa: E402
from diffmf_ros.inference.weights import (  # noqa: E402
    digest,
    load_into,
    load_weights,
    save_weights,
)
from diffmf_ros.inference.weights_header import (  # noqa: E402
    WeightsError,
    read_header,
    shipped,
    weights_for,
)

HEADER = {'model': 'diffmf', 'preset': 'light', 'iterations': 5, 'seed': 0}


@pytest.fixture(scope='module')
def network():
    torch.manual_seed(0)
    return models.build('diffmf', 'light')


@pytest.fixture
def saved(network, tmp_path):
    """Return save(change=..., **header) -> path of a weights file with changed tensors or header.
    """
    def save(change=lambda tensors: tensors, **header):
        path = tmp_path / 'w.safetensors'
        save_weights(path, change(dict(network.state_dict())), **{**HEADER, **header})
        return path
    return save


def test_round_trip_keeps_precisions(saved, network):
    """Round trip keeps half precision and float32 decays."""
    weights = load_weights(saved())
    state = network.state_dict()
    assert weights.tensors.keys() == state.keys()
    for name, tensor in weights.tensors.items():
        wide = name.endswith(('A_log', 'A_logs'))
        assert tensor.dtype == (torch.float32 if wide else torch.float16)
        assert torch.equal(tensor, state[name].to(tensor.dtype))


def test_exact_weights_stay_float32(network, tmp_path):
    """Exact weights stay float32 and may not say how they were trained."""
    # Given numbers that half precision cannot hold, from a training that is not ours,
    state = {name: tensor + 1e-7 for name, tensor in network.state_dict().items()}
    # when they are saved as they are and read again,
    save_weights(tmp_path / 'w.safetensors', state, model='diffmf', preset='light',
                 iterations=None, seed=None, exact=True)
    weights = load_weights(tmp_path / 'w.safetensors')
    # then no bit has changed, and what is not known is not made up.
    assert weights.tensors.keys() == state.keys()
    assert all(tensor.dtype == torch.float32 and torch.equal(tensor, state[name])
               for name, tensor in weights.tensors.items())
    assert (weights.iterations, weights.seed) == (None, None)
    with safetensors.safe_open(tmp_path / 'w.safetensors', framework='pt') as file:
        assert (file.metadata()['iterations'], file.metadata()['seed']) == ('unknown', 'unknown')


@pytest.mark.parametrize('iterations, refused', [('unknown', False), ('7', False), ('0', True)])
def test_exported_network_may_omit_training(iterations, refused):
    """An exported network may not say how long it was trained."""
    metadata = {**dict.fromkeys(onnx_engine.KEYS, ''), 'format': onnx_engine.FORMAT,
                'model': 's4fusion', 'sides': '12 1 1', 'size': 'any', 'iterations': iterations,
                'seed': 'unknown'}
    if refused:
        with pytest.raises(EngineError, match='untrained'):
            onnx_engine.read_header('n.onnx', metadata)
    else:
        assert onnx_engine.read_header('n.onnx', metadata).model == 's4fusion'


def test_missing_file_names_shipped_ones(tmp_path):
    """Missing file says how to get the shipped ones."""
    with pytest.raises(WeightsError, match='does not exist; leave `weights` empty'):
        load_weights(tmp_path / 'none.safetensors')


def test_synthetic_weights_come_by_name():
    """The word stands for a file of the package, and presets without one are told so."""
    settings = with_changes(DEFAULTS, {'weights': 'synthetic'})

    header = read_header(weights_for(settings))

    assert (header.model, header.preset) == ('diffmf', 'nano')
    assert name_of(settings) == 'diffmf nano synthetic'
    assert header.sha256 != read_header(weights_for(DEFAULTS)).sha256
    with pytest.raises(WeightsError, match='no synthetic weights for diffmf light come with'):
        weights_for(with_changes(settings, {'preset': 'light'}))


def test_unshipped_preset_lists_available():
    """Preset without shipped weights lists what is there."""
    with pytest.raises(WeightsError, match='no trained weights for diffmf light-s4'):
        shipped('diffmf', 'light-s4')
    with pytest.raises(WeightsError, match='there is no s4fusion nano: s4fusion has base, light; '
                       'set preset to one'):
        shipped('s4fusion', 'nano')
    with pytest.raises(WeightsError, match='classical is no network and has no weights: expected '
                       'one of diffmf, '):
        shipped('classical', 'light')


@pytest.mark.parametrize('change, message', [
    (lambda t: {k: v for k, v in t.items() if k != 'decoder.full.2.bias'},
     'missing decoder.full.2.bias'),
    (lambda t: {**t, 'extra.weight': torch.zeros(3)}, r'unexpected extra.weight \(3,\)'),
    (lambda t: {**t, 'stem_i.conv1.bias': torch.zeros(7)},
     r'stem_i.conv1.bias has shape \(7,\), expected \(16,\)'),
])
def test_mismatching_tensors_are_listed(saved, network, change, message):
    """Tensors that do not fit are listed."""
    with pytest.raises(WeightsError, match=message):
        load_into(network, load_weights(saved(change)))


def test_truncated_file_is_refused(saved):
    path = saved()
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(WeightsError, match='not a whole safetensors file'):
        load_weights(path)


def test_changed_bytes_are_noticed(saved):
    path = saved()
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(data)
    with pytest.raises(WeightsError, match='checksum does not match'):
        load_weights(path)


def test_untrained_weights_are_refused(saved):
    with pytest.raises(WeightsError, match='untrained'):
        load_weights(saved(iterations=0))


def test_file_of_another_program_is_refused(saved, tmp_path):
    path = tmp_path / 'foreign.safetensors'
    save_file(load_file(saved()), path)
    with pytest.raises(WeightsError, match='does not say what it is for'):
        load_weights(path)


def test_a_pickle_is_never_opened(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ('the pickle was executed',))

    path = tmp_path / 'w.safetensors'
    path.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(WeightsError, match='not a whole safetensors file'):
        load_weights(path)


def test_weights_of_another_preset_are_refused(saved):
    settings = with_changes(DEFAULTS, {'weights': str(saved()), 'preset': 'base'})
    with pytest.raises(WeightsError, match='is for diffmf light, but diffmf base was asked for'):
        Engine(settings)


def test_digest_covers_tensors_fully():
    """Digest depends on name shape type and value."""
    base = {'a': torch.zeros(2, 3)}
    others = [{'b': torch.zeros(2, 3)}, {'a': torch.zeros(3, 2)}, {'a': torch.zeros(2, 3).half()},
              {'a': torch.ones(2, 3)}]
    assert len({digest(t) for t in [base, *others]}) == 5


def test_loading_again_keeps_nothing():
    """A file that is loaded again and again leaves no objects behind."""
    path = shipped('diffmf', 'nano')
    load_weights(path)
    gc.collect()
    before = sys.getallocatedblocks()

    tensors = sum(len(load_weights(path).tensors) for _ in range(5))
    gc.collect()

    assert tensors > 1000
    assert sys.getallocatedblocks() - before < 200
