# SPDX-License-Identifier: Apache-2.0
"""The checkpoint of S4Fusion's authors, with synthetic numbers in their layout, as weights of this
package."""

import json
import os
import pickle
import sys
from collections import OrderedDict

import numpy as np
import pytest

torch = pytest.importorskip('torch', minversion='2.10', reason='pickles need torch 2.10')

from s4fusion_golden import PREFIX, synthetic  # noqa: E402
from safetensors.torch import save_file  # noqa: E402
from typer.testing import CliRunner  # noqa: E402

from diffmf_ros import models  # noqa: E402
from diffmf_ros.cli import main  # noqa: E402
from diffmf_ros.core.settings import DEFAULTS, with_changes  # noqa: E402
from diffmf_ros.inference import conversion  # noqa: E402
from diffmf_ros.inference.conversion import (  # noqa: E402
    WeightsError,
    blob_id,
    convert,
    imports_of,
)
from diffmf_ros.inference.engine import Engine  # noqa: E402
from diffmf_ros.inference.weights import load_weights  # noqa: E402

pytestmark = pytest.mark.slow

# shapes (12,) and (1, 12, 1, 1)
GAMMA, SCALE = PREFIX + 'final_up.norm.weight', PREFIX + 'final_conv.weight'


@pytest.fixture(scope='module')
def authors():
    """A state dict with the names and shapes of the authors' checkpoint."""
    shapes = {name: tuple(tensor.shape) for name,
              tensor in models.build('s4fusion', 'base').state_dict().items()}
    return {PREFIX + name: torch.from_numpy(synthetic(PREFIX + name, shape)) for name,
            shape in shapes.items()}


@pytest.fixture
def out(tmp_path):
    return tmp_path / 's4fusion.safetensors'


@pytest.fixture
def converted(tmp_path, out):
    """converted(content, **how) -> what convert() returns for content, saved with torch.save."""
    def run(content, **how):
        torch.save(content, tmp_path / 'model.pkl', **how)
        return convert(tmp_path / 'model.pkl', out)
    return run


def without_prefix(state):
    return {name.removeprefix(PREFIX): tensor for name, tensor in state.items()}


def in_one_memory(state):
    """As an optimizer may leave tensors: views of one."""
    parts = torch.cat([tensor.flatten() for tensor in state.values()]).split(
        [t.numel() for t in state.values()])
    return {name: part.view(state[name].shape) for name, part in zip(state, parts)}


def assert_holds(path, state):
    weights = load_weights(path)
    assert (weights.model, weights.preset, weights.iterations,
            weights.seed) == ('s4fusion', 'base', None, None)
    assert weights.tensors.keys() == without_prefix(state).keys()
    for name, tensor in weights.tensors.items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor.view(torch.int32),
                           state[PREFIX + name].float().view(torch.int32)), name


@pytest.mark.parametrize('zipped', [True, False])
@pytest.mark.parametrize('wrap', [
    lambda state: {'model': state, 'epoch': 3},
    lambda state: {'model': without_prefix(state)},
    lambda state: state,
    in_one_memory,
    lambda state: OrderedDict((name, torch.nn.Parameter(tensor)) for name,
                              tensor in without_prefix(state).items()),
])
def test_every_wrapping_keeps_tensors(authors, converted, out, wrap, zipped):
    """Every wrapping gives the tensors bit for bit."""
    written = converted(wrap(authors), _use_new_zipfile_serialization=zipped)
    assert (written.path, written.tensors, written.numbers) == (out, 304, 3_562_981)
    assert not written.published
    assert_holds(out, authors)


def test_safetensors_are_taken_too(authors, tmp_path, out):
    save_file(authors, tmp_path / 'authors.safetensors')
    assert convert(tmp_path / 'authors.safetensors', out).tensors == 304
    assert_holds(out, authors)


def test_engine_matches_network(authors, converted, out):
    """The engine gives what the network gives."""
    # Given a converted checkpoint and a pair whose sides need no padding,
    converted({'model': authors})
    pair = [np.random.default_rng(i).random((61, 73), np.float32) for i in (0, 1)]
    # when the authors' tensors fuse it in a bare network, and the converted file in the engine,
    # convolutions round by it
    network = models.build('s4fusion', 'base').eval().to(memory_format=torch.channels_last)
    network.load_state_dict(without_prefix(authors))
    for module in network.modules():
        if hasattr(module, 'backend'):
            module.backend = 'portable'
    with torch.inference_mode():
        raw = network(*(torch.from_numpy(image)[None, None] for image in pair))[0, 0].numpy()
    fused = Engine(with_changes(DEFAULTS, {
        'model': 's4fusion', 'preset': 'base', 'weights': str(out), 'precision': 'float32',
        'device': 'cpu',
        'scan_backend': 'portable', 'threads': torch.get_num_threads()}))(*pair)
    # then both agree in every bit, where the network's output lies in the range of an image.
    assert 0.2 < np.mean((raw > 0) & (raw < 1)) and np.array_equal(fused, raw.clip(0, 1))


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float64])
def test_other_floating_types_become_float32(authors, converted, out, dtype):
    state = {name: tensor.to(dtype) for name, tensor in authors.items()}
    converted(state)
    assert_holds(out, state)


def test_data_parallel_save_is_taken(authors, converted, out):
    """What was saved from data parallel is taken."""
    converted({f'module.{name}': tensor for name, tensor in authors.items()})
    assert_holds(out, authors)


def test_other_network_is_refused_briefly(converted):
    """Another network is refused in a line one can read."""
    with pytest.raises(WeightsError, match='missing .*; and [0-9]+ more$') as refused:
        converted({f'layer{number}.weight': torch.zeros(3) for number in range(300)})
    assert len(str(refused.value)) < 1000


@pytest.mark.parametrize('change, words', [
    (lambda s: {name: t for name, t in s.items() if name != SCALE},
     [f'missing {SCALE} (1, 12, 1, 1)']),
    (lambda s: {**s, PREFIX + 'extra': torch.zeros(3)}, [f'unexpected {PREFIX}extra (3,)']),
    (lambda s: {**s, GAMMA: torch.zeros(13)}, [f'{GAMMA} has shape (13,), expected (12,)']),
    (lambda s: {('' if name == GAMMA else PREFIX) + name.removeprefix(PREFIX): t for name,
                t in s.items()},
     [f'missing {GAMMA} (12,)', 'unexpected final_up.norm.weight (12,)']),
    (lambda s: {**s, GAMMA: torch.zeros(12, dtype=torch.int64)},
     [f'{GAMMA} holds torch.strided torch.int64 on cpu']),
    (lambda s: {**s, GAMMA: torch.zeros(12).to_sparse()},
     [f'{GAMMA} holds torch.sparse_coo torch.float32']),
    (lambda s: {**s, GAMMA: torch.tensor([float('nan')] * 2 + [1.0] * 10)},
     [f'{GAMMA} is not finite', '2 of 12']),
    (lambda s: {**s, GAMMA: torch.full((12,), 1e39, dtype=torch.float64)},
     [f'{GAMMA} is not finite', '12 of 12']),
    (lambda s: {'state_dict': s, 'epoch': 3}, ["'state_dict' is dict, 'epoch' is int"]),
    (lambda s: {'model': list(s.values())},
     ["holds list; expected a state dict, or a dict with one at 'model'"]),
])
def test_mismatches_are_listed_nothing_written(authors, converted, tmp_path, change, words):
    """What does not fit is listed and nothing is written."""
    with pytest.raises(WeightsError) as refused:
        converted(change(authors))
    assert all(word in str(refused.value) for word in words), refused.value
    assert [path.name for path in tmp_path.iterdir()] == ['model.pkl']


class Bomb:
    """Touches a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f'touch {self.path}',)


def torch_bytes(content, tmp_path, **how):
    torch.save(content, tmp_path / 'saved', **how)
    return (tmp_path / 'saved').read_bytes()


@pytest.mark.parametrize('save', [
    lambda bomb, folder: torch_bytes({'model': {'w': torch.zeros(2), 'x': bomb}}, folder),
    lambda bomb, folder: torch_bytes({'w': torch.zeros(2), 'x': bomb}, folder,
                                     _use_new_zipfile_serialization=False),
    lambda bomb, folder: torch_bytes({'x': bomb}, folder, pickle_protocol=4),
    lambda bomb, folder: pickle.dumps(bomb, protocol=5),
    lambda bomb, folder: pickle.dumps(bomb, protocol=0),
    lambda bomb, folder: f"(S'touch {bomb.path}'\niposix\nsystem\n.".encode(),
])
def test_executing_pickle_is_refused_unopened(tmp_path, out, save):
    """A pickle that runs something is refused unopened."""
    # Given a checkpoint that touches a file when it is unpickled,
    bomb, checkpoint = Bomb(tmp_path / 'exploded'), tmp_path / 'model.pkl'
    checkpoint.write_bytes(save(bomb, tmp_path))
    # when it is converted, then what it would import is named, and nothing else, and nothing ran.
    with pytest.raises(WeightsError, match=r'not opened: beyond tensors its pickle asks for '
                       r'posix\.system, and an'):
        convert(checkpoint, out)
    assert not bomb.path.exists() and not out.exists()


@pytest.mark.parametrize('protocol', [0, 2, 4])
def test_pushed_imports_are_found(protocol):
    """Imports are found where names are pushed once and got again."""
    data = pickle.dumps([os.system, os.getcwd, OrderedDict, os.system, set], protocol=protocol)
    assert imports_of(data) == {'posix.system', 'posix.getcwd', 'collections.OrderedDict',
                                'builtins.set'}


def test_hidden_names_stay_printable():
    """Names that a pickle computes or hides are still printable."""
    assert imports_of(b'\x80\x04K\x01K\x02\x93.') == {'None.None'}
    assert imports_of(b'cos\nsys\x1b[2Jtem\n.') == {'os.sys\\x1b[2Jtem'}


@pytest.mark.parametrize('damage', [lambda data: data[:-1000], lambda data: b'',
                                    lambda data: b'no checkpoint at all'])
def test_damaged_file_names_expectation(authors, tmp_path, out, damage):
    """A damaged file says what was expected."""
    (tmp_path / 'model.pkl').write_bytes(damage(torch_bytes(authors, tmp_path)))
    with pytest.raises(WeightsError, match='not a checkpoint that torch opens safely .* whole '
                       'file of torch.save'):
        convert(tmp_path / 'model.pkl', out)


def test_older_torch_refuses_pickles(authors, converted, monkeypatch):
    """An older torch is not trusted with pickles."""
    monkeypatch.setattr(torch, '__version__', torch.torch_version.TorchVersion('2.9.1'))
    with pytest.raises(WeightsError, match='install torch 2.10 or newer'):
        converted(authors)


def test_existing_file_kept_without_permission(authors, converted, tmp_path, out):
    """An existing file is kept unless it may be replaced."""
    out.write_bytes(b'mine')
    with pytest.raises(WeightsError, match='is there already.*--overwrite'):
        converted(authors)
    assert out.read_bytes() == b'mine'
    convert(tmp_path / 'model.pkl', out, overwrite=True)
    assert_holds(out, authors)


def test_full_disk_keeps_old_file(authors, converted, tmp_path, out, monkeypatch):
    """A full disk leaves neither half a file nor a lost one."""
    def full(path, tensors, **header):
        path.write_bytes(b'half')
        raise OSError(28, 'No space left on device')
    converted(authors)
    whole = out.read_bytes()
    monkeypatch.setattr(conversion, 'save_weights', full)
    with pytest.raises(OSError, match='No space left'):
        convert(tmp_path / 'model.pkl', out, overwrite=True)
    assert out.read_bytes() == whole and {path.name for path in tmp_path.iterdir()} == {
        'model.pkl', out.name}


def test_the_identity_is_that_of_git():
    assert blob_id(b'hello\n') == 'ce013625030ba8dba906f756967f9e9ca394464a'


def test_command_reports_written_file(authors, tmp_path, out, monkeypatch):
    """The command says what it wrote and from what."""
    # Given a checkpoint that is not the published one, and then is,
    blob = blob_id(torch_bytes({'model': authors}, tmp_path))
    call = ['convert-weights', str(tmp_path / 'saved'), '-o', str(out), '--overwrite']
    # when the command converts it,
    foreign = CliRunner().invoke(main.application(), call)
    monkeypatch.setattr(conversion, 'PUBLISHED', blob)
    told = tmp_path / 'told.json'
    published = CliRunner().invoke(main.application(), [*call, '--json', str(told)])
    # then it says so, and both are fine.
    assert [(done.exit_code, done.exception) for done in (foreign, published)] == [(0, None)] * 2
    assert f'{out}: s4fusion base, 304 tensors, 3,562,981 numbers\n' in foreign.output
    assert (f"{blob}, note: not the authors' published file "
            f"(ec101bb3e8cd84fab46e12266813687a61f2a82e)" in foreign.output)
    assert f"{blob}, the authors' published file\n" in published.output
    assert json.loads(told.read_text()) == {
        'out': str(out), 'model': 's4fusion', 'preset': 'base', 'tensors': 304,
        'numbers': 3_562_981, 'blob': blob, 'published': True}
    assert_holds(out, authors)


@pytest.mark.parametrize('arguments, words', [
    (['none.pkl'], 'cannot read none.pkl: No such file or directory'),
    (['text.pkl'], 'text.pkl is not a checkpoint that torch opens safely'),
    (['text.safetensors'], 'text.safetensors is not a whole safetensors file'),
    (['text.safetensors', '-o', 'text.safetensors'], 'text.safetensors is read as an input, so'),
    (['text.pkl', '-o', 'text.pkl'], 'text.pkl cannot be written: a file of --out has a name'),
])
def test_errors_exit_with_code_2(tmp_path, monkeypatch, capsys, arguments, words):
    """Errors are one message and exit code 2."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'text.pkl').write_text('no checkpoint')
    (tmp_path / 'text.safetensors').write_text('no checkpoint')
    monkeypatch.setattr(sys, 'argv', ['diffmf', 'convert-weights', *arguments])
    with pytest.raises(SystemExit) as ended:
        main.main()
    assert ended.value.code == 2
    assert f'error: {words}' in capsys.readouterr().err
    assert not (tmp_path / 's4fusion.safetensors').exists()
