# SPDX-License-Identifier: Apache-2.0
"""Data and loop: exact resume above all."""

import csv
import dataclasses
import signal
from pathlib import Path

import cv2
import numpy as np
import pytest

torch = pytest.importorskip('torch', reason='torch is not installed')

from typer.testing import CliRunner  # noqa: E402

from diffmf_ros import models  # noqa: E402
from diffmf_ros.cli.main import application  # noqa: E402
from diffmf_ros.inference.weights import digest, load_weights  # noqa: E402
from diffmf_ros.inference.weights_header import WeightsError  # noqa: E402
from diffmf_ros.tools.training.config import ConfigError, TrainConfig, load_config  # noqa: E402
from diffmf_ros.tools.training.data import (  # noqa: E402
    Batch,
    CropSampler,
    Degradations,
)
from diffmf_ros.tools.training.distributed import Stop  # noqa: E402
from diffmf_ros.tools.training.loop import Trainer, learning_rate, train  # noqa: E402
from diffmf_ros.tools.training.losses import LossWeights  # noqa: E402
from diffmf_ros.tools.training.precision import TrainingError  # noqa: E402

RECIPES = sorted((Path(__file__).parents[3] / 'config' / 'train').glob('*.yaml'))


def quiet(iteration, terms):
    """A report that nobody reads."""


def textures(path):
    """Write three pairs of 40 x 48 images of smooth textures into a folder; return it."""
    random = np.random.default_rng(0)
    for sub in ('ir', 'vi'):
        (path / 'set' / sub).mkdir(parents=True)
        for name in 'abc':
            texture = cv2.GaussianBlur(random.standard_normal((40, 48)), (0, 0), 3)
            texture = cv2.normalize(texture, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)
            cv2.imwrite(str(path / 'set' / sub / f'{name}.png'), texture)
    return path


@pytest.fixture
def folder(tmp_path):
    """A folder of three pairs."""
    return textures(tmp_path)


SIZES = {'width': 8, 'rounds': 1, 'depth': 1, 'mlp_ratio': 1.0, 'ssd_states': 4, 'ssd_head': 8,
         'levels': 2}


@pytest.fixture
def tiny(monkeypatch, folder):
    """A configuration that trains in a moment."""
    monkeypatch.setitem(models.PRESETS['diffmf'], 'light', SIZES)
    return quick(folder)


def quick(folder):
    return TrainConfig(data=str(folder), out=str(folder / 'out'), iterations=6, batch=2, crop=16,
                       warmup=2, device='cpu')


def test_learning_rate_rises_then_falls():
    """Learning rate rises then falls to zero."""
    config = TrainConfig(data='', out='', iterations=100, warmup=10, learning_rate=1.0)
    assert learning_rate(config, 4) == pytest.approx(0.5)
    assert learning_rate(config, 10) == pytest.approx(1.0)
    assert learning_rate(config, 55) == pytest.approx(0.5)
    assert learning_rate(config, 100) == pytest.approx(0.0)


def trained(config, **options):
    """Digest of the weights that a training ends with."""
    return digest(load_weights(train(config, quiet, **options).weights).tensors)


def test_interrupted_training_resumes_exactly(tiny, folder):
    whole = trained(dataclasses.replace(tiny, out=str(folder / 'whole')))

    def stop_at_four(iteration, terms):
        if iteration == 4:
            raise MemoryError
    interrupted = dataclasses.replace(tiny, checkpoint_minutes=0)
    with pytest.raises(MemoryError):
        train(interrupted, stop_at_four)
    seen = []
    resumed = train(interrupted, lambda iteration, terms: seen.append(iteration))
    assert seen == [4, 5, 6]  # the checkpoint is of iteration 3: the fourth was not saved yet
    assert digest(load_weights(resumed.weights).tensors) == whole


@pytest.mark.parametrize('number, stop',
                         [(signal.SIGTERM, Stop.TERMINATED), (signal.SIGINT, Stop.INTERRUPTED)])
def test_stopped_training_loses_nothing(tiny, folder, number, stop):
    # Given a training, when a signal comes in its fourth iteration,
    usual = signal.getsignal(number)
    stopped = train(tiny, lambda iteration, terms: iteration == 4 and signal.raise_signal(number))
    # then that iteration is saved, the handlers are back, and it goes on to the same end.
    assert (stopped.iteration, stopped.stop) == (4, stop)
    assert load_weights(stopped.weights).iterations == 4
    assert signal.getsignal(number) is usual
    assert trained(tiny) == trained(dataclasses.replace(tiny, out=str(folder / 'whole')))


def test_timed_out_training_resumes(tiny, folder):
    """Training ends when its time is up and goes on."""
    ends = [train(tiny, quiet, minutes=0) for _ in range(tiny.iterations)]
    assert [(end.iteration, end.stop) for end in ends] == [
        *((i, Stop.TIME_IS_UP) for i in range(1, 6)), (6, Stop.NO)]
    assert trained(tiny) == trained(dataclasses.replace(tiny, out=str(folder / 'whole')))


def test_command_reports_progress_and_exit(tiny, folder, monkeypatch):
    """Command says how far it came and exits as it ended."""
    # Given a recipe whose folders are named on the command line,
    (folder / 'c.yaml').write_text('data: none\nout: none\niterations: 6\nbatch: 2\ncrop: '
                                   '16\ndevice: cpu\n')
    call = ['train', str(folder / 'c.yaml'), '--data', tiny.data, '--out', tiny.out]
    # when its time is up, a signal comes, or it reaches the end,
    timed = CliRunner().invoke(application(), [*call, '--minutes', '0'])
    with monkeypatch.context() as patched:
        whole = CropSampler.batch
        patched.setattr(CropSampler, 'batch', lambda self,
                        i: signal.raise_signal(signal.SIGTERM) or whole(self, i))
        ended = CliRunner().invoke(application(), call)
    complete = CliRunner().invoke(application(), call)
    # then the exit code is 0, that of the signal, or 0.
    assert [(result.exit_code, result.exception) for result in (timed, complete)] == [
        (0, None)] * 2
    assert 'time is up after iteration 1 of 6; run it again to go on' in timed.output
    assert ended.exit_code == 128 + 15
    assert 'terminated after iteration 2 of 6' in ended.output
    assert complete.output.endswith(f'weights: {tiny.out}/diffmf_light.safetensors\n')


@pytest.mark.parametrize('change, message', [
    ({'preset': 'nano'}, 'preset: light there, nano here. Undo'),
    ({'iterations': 9}, 'iterations: 6 there, 9 here; the learning rate at every iteration '
     'depends'),
    ({'precision': 'bfloat16'}, 'precision: float32 there, bfloat16 here'),
    ({'loss': LossWeights(ssim=4.0)}, 'loss.ssim: 10.0 there, 4.0 here'),
    ({'degradations': Degradations(veil=0.9)}, 'degradations.veil: 0.2 there, 0.9 here'),
    ({'batch': 4, 'seed': 1}, 'batch: 2 there, 4 here; seed: 0 there, 1 here'),
])
def test_checkpoint_of_another_configuration_is_refused(tiny, change, message):
    train(tiny, quiet, minutes=0)
    with pytest.raises(TrainingError, match=f'at iteration 1, is of another training: {message}'):
        train(dataclasses.replace(tiny, **change), quiet)


def test_anonymous_checkpoint_is_refused(tiny):
    """Checkpoint that does not say what it is of is refused."""
    path = train(tiny, quiet, minutes=0).weights.with_name('checkpoint.pt')
    state = torch.load(path, weights_only=True)
    del state['config']
    torch.save(state, path)
    with pytest.raises(TrainingError, match='does not say which configuration it is of'):
        train(tiny, quiet)


def test_other_pairs_checkpoint_is_refused(tiny, folder):
    """Checkpoint of other pairs is refused and of the same elsewhere not."""
    train(tiny, quiet, minutes=0)
    (folder / 'set').rename(folder / 'moved')
    assert train(dataclasses.replace(tiny, threads=1, checkpoint_minutes=9), quiet,
                 minutes=0).iteration == 2
    for sub in ('ir', 'vi'):
        (folder / 'moved' / sub / 'c.png').unlink()
    with pytest.raises(TrainingError,
                       match=r'training pairs: 3 \(\w{8}\) there, 2 \(\w{8}\) here'):
        train(tiny, quiet)


@pytest.fixture(scope='module')
def learned(tmp_path_factory):
    """(configuration, weights, losses) of a training that learns in a moment: it has to paint the
    image, and images are clean."""
    clean = Degradations(**dict.fromkeys((f.name for f in dataclasses.fields(Degradations)), 0.0))
    config = dataclasses.replace(quick(textures(tmp_path_factory.mktemp('learned'))),
                                 iterations=60, learning_rate=3e-3, degradations=clean)
    losses = []
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(models.PRESETS['diffmf'], 'light', SIZES | {'mixing': False})
        weights = train(config, lambda iteration, terms: losses.append(terms['total'])).weights
    return config, weights, losses


def test_training_lowers_the_loss(learned):
    config, _, losses = learned
    assert np.mean(losses[-10:]) < 0.7 * np.mean(losses[:10])
    rows = list(csv.DictReader(open(f'{config.out}/log.csv')))
    assert [row['iteration'] for row in rows] == ['20', '40', '60']
    assert float(rows[0]['total']) == pytest.approx(np.mean(losses[:20]), rel=1e-4)


def test_student_learns_teacher_image(learned, tmp_path, monkeypatch):
    """Student learns the image of its teacher."""
    # Given a teacher, and a student that is told to do nothing but what the teacher does,
    config, teacher, _ = learned
    monkeypatch.setitem(models.PRESETS['diffmf'], 'light', SIZES | {'mixing': False})
    only = LossWeights(intensity=0, gradient=0, ssim=0, distil=60)
    config = dataclasses.replace(config, out=str(tmp_path / 'student'), teacher=str(teacher),
                                 loss=only, seed=5)
    # when it is trained,
    losses = []
    train(config, lambda iteration, terms: losses.append(terms['distil']))
    # then it comes closer to it, and the log shows how close.
    assert np.mean(losses[-10:]) < 0.3 * losses[0]
    row = next(csv.DictReader(open(f'{config.out}/log.csv')))
    assert float(row['total']) == pytest.approx(60 * float(row['distil']), rel=1e-4)


def test_training_starts_from_weights(tiny):
    """A training starts from the weights that it names."""
    # Given weights, when another training names them, then network and average are those,
    first = train(tiny, quiet).weights
    trainer, given = Trainer(dataclasses.replace(tiny, start=str(first))), load_weights(
        first).tensors
    for state in (trainer.network.state_dict(), trainer.average):
        assert all(torch.equal(value, given[name].float()) for name, value in state.items())
    # and for another preset they are refused.
    with pytest.raises(TrainingError,
                       match='start: .* holds diffmf light, this training is of diffmf nano'):
        Trainer(dataclasses.replace(tiny, preset='nano', start=str(first)))


def test_nonfinite_gradient_stops_training(tiny):
    """Gradient that is not finite stops the training."""
    trainer = Trainer(tiny)
    bad = torch.full((1, 1, 16, 16), float('nan'))
    with pytest.raises(TrainingError,
                       match='non-finite gradient at iteration 1: lower learning_rate'):
        trainer.step(Batch(*[bad] * 7))


@pytest.mark.parametrize('text, message', [
    ('data: a\nout: b\nbatches: 3\n', 'unknown batches, did you mean batch.; known: batch'),
    ('data: a\n', 'lacks out'),
    ('- a\n', 'must hold a mapping'),
    ('data: [\n', 'cannot be read as YAML'),
    ('data: a\nout: b\nloss: {color: 1}\n', 'unknown color; known: contrast, distil, '),
    ('data: a\nout: b\nprecision: half\n',
     "precision must be one of float32, bfloat16, float16, not 'half'"),
    ('data: a\nout: b\ndevice: gpu\n', "device must be one of auto, cpu, cuda, not 'gpu'"),
    ('data: a\nout: b\nmodel: s4fusion\npreset: nano\n', 'there is no s4fusion nano'),
    ('data: a\nout: b\nteacher: t.safetensors\n',
     "needs both a teacher .* got teacher 't.safetensors' and distil 0.0"),
    ('data: a\nout: b\nloss: {distil: 1}\n', 'needs both a teacher'),
    ('data: a\nout: b\nloss: {vif: 1}\n',
     'unknown vif; known: contrast, distil, gradient, intensity, '),
    ('data: a\nout: b\nstrength: 0.8\n', 'unknown strength; known: batch, '),
    ('data: a\nout: b\ndegradations: {smoke: 0.5, rain: 1}\n',
     'unknown rain and smoke; known: black_hot, blind, dark, '),
    ('data: a\nout: b\ndegradations: {veil: 2}\n', 'veil must be a number from 0 to 1, got 2'),
    ('data: a\nout: b\ndegradations: {dark: often}\n',
     "degradations.dark must be a number from 0 to 1, got 'often'"),
    ('data: a\nout: 3\niterations: three\nseed: -1\n', "out must be a text, got 3; iterations "
     "must be a whole number from 1, got 'three'; seed must be a whole .*, got -1"),
    ('data: a\nout: b\nbatch: 1.5\nema: 2\n', 'batch must be a whole number from 1, got 1.5; '
     'ema must be a number from 0 to below 1, got 2'),
    ('data: a\nout: b\nclip: .nan\nthreads: true\n', 'clip must be .* above 0, got nan; threads '
     'must be a whole number from 0, got True'),
    ('data: a\nout: b\nlearning_rate: .inf\n1: 2\n', 'unknown 1; known'),
    ('data: a\nout: b\nteacher:\nloss: {ssim: -1}\n', 'loss.ssim must be a number from 0, got -1'),
    ('data: a\nout: b\nteacher:\n', 'a text, got None: leave it out'),
    ('data: a\nout: b\ndegradations: [veil]\n',
     r"degradations must hold a mapping such as \{veil: 0.2\}, not \['veil'\]"),
])
def test_bad_configuration_is_explained(tmp_path, text, message):
    (tmp_path / 'c.yaml').write_text(text)
    with pytest.raises((ConfigError, WeightsError), match=message):
        load_config(tmp_path / 'c.yaml')


def test_numbers_as_people_write_them(tmp_path):
    """YAML takes a number without a point, such as 1e-3, for a text; here it is a number."""
    (tmp_path / 'c.yaml').write_text(
        'data: a\nout: b\nlearning_rate: 1e-3\niterations: 1e4\nloss: {ssim: 2e1}\n')
    config = load_config(tmp_path / 'c.yaml')
    assert (config.learning_rate, config.iterations, config.loss.ssim) == (1e-3, 10_000, 20)
    assert type(config.iterations) is int


def test_named_degradations_change(tmp_path):
    """Degradations are changed by what is named."""
    (tmp_path / 'c.yaml').write_text('data: a\nout: b\ndegradations: {veil: 0.5, shift: 0}\n')
    usual = Degradations()
    assert load_config(tmp_path / 'c.yaml').degradations == dataclasses.replace(
        usual, veil=0.5, shift=0)
    (tmp_path / 'c.yaml').write_text('data: a\nout: b\n')
    assert load_config(tmp_path / 'c.yaml').degradations == usual


@pytest.mark.parametrize('path', RECIPES, ids=lambda path: path.stem)
def test_packaged_recipes_name_network(path):
    """Recipes that come with the package name a network."""
    config = load_config(path)
    assert config.preset in models.PRESETS[config.model]
    assert Path(config.out).name == path.stem
    if not config.loss.target:  # the loss compares with the sources as they are
        assert not any(dataclasses.asdict(config.degradations).values())
