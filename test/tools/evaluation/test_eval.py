# SPDX-License-Identifier: Apache-2.0
"""Evaluating folders: what is scored, what is refused and why, and the files that are written."""

import io
import json
import re

import cv2
import numpy as np
import pytest
from diffmf_process import diffmf
from rich.console import Console

from diffmf_ros.core.settings import ThermalSettings
from diffmf_ros.tools.evaluation import eval_page
from diffmf_ros.tools.evaluation.detector_trial import COLUMNS
from diffmf_ros.tools.evaluation.eval_files import EvaluationError
from diffmf_ros.tools.evaluation.eval_page import DECIMALS, as_json
from diffmf_ros.tools.evaluation.evaluate import FROM_FILES, evaluate
from diffmf_ros.tools.evaluation.metrics import score
from diffmf_ros.tools.evaluation.scoring import (
    BASELINES,
    METRICS,
    UnknownMethod,
    luminance,
    method,
)

SIZE = 56, 64  # height, width


def scene(seed, shape=SIZE):
    """A smooth random image, uint8."""
    noise = np.random.default_rng(seed).uniform(0, 255, shape).astype(np.float32)
    return cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 3), None, 0, 255,
                         cv2.NORM_MINMAX).astype(np.uint8)


@pytest.fixture
def folders(tmp_path):
    """Three color and thermal pairs and their average; returns {'rgb': folder, ...}."""
    found = {name: tmp_path / name for name in ('rgb', 'thermal', 'fused')}
    for folder in found.values():
        folder.mkdir()
    for number, name in enumerate('abc'):
        color, ir = scene(number, (*SIZE, 3)), scene(10 + number)
        cv2.imwrite(str(found['rgb'] / f'{name}.png'), color)
        cv2.imwrite(str(found['thermal'] / f'{name}.bmp'), ir)
        cv2.imwrite(str(found['fused'] / f'{name}.png'), (color // 2 + ir[..., None] // 2))
    return found


def strict(text):
    """JSON without NaN and Infinity."""
    return json.loads(text, parse_constant=lambda name: pytest.fail(f'{name} is not JSON'))


def diffmf_eval(*arguments):
    return diffmf('eval', *arguments)


def test_luminance_is_the_weighted_sum_rounded():
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    exact = pixels.astype(np.float64) @ (0.114, 0.587, 0.299)
    off = np.abs(luminance(pixels) - exact)
    assert off.max() < 0.5 + 1e-4
    assert np.array_equal(luminance(pixels[..., 0]), pixels[..., 0])


def test_fused_files_scored_on_luminance(folders):
    """Fused files are scored on their luminance."""
    got = evaluate(folders['rgb'], folders['thermal'], fused=folders['fused'])
    assert [image.name for image in got.images] == ['a', 'b', 'c']
    assert got.problems == []
    ir, visible, fused = (cv2.imread(str(folders[kind] / file), cv2.IMREAD_UNCHANGED)
                          for kind,
                          file in (('thermal', 'b.bmp'), ('rgb', 'b.png'), ('fused', 'b.png')))
    expected = score(ir, luminance(visible), luminance(fused), colors=(visible, fused))
    assert got.images[1].scores[FROM_FILES] == pytest.approx(expected, nan_ok=True)


def test_baselines_and_means_over_images(folders):
    """Baselines stand beside it and means are over the images."""
    got = evaluate(folders['rgb'], folders['thermal'], method=('maximum', BASELINES['maximum']))
    means = got.means()
    assert list(means) == ['maximum', 'average', 'classical', 'blend', 'rgb', 'thermal']
    assert means['average']['SD'] == pytest.approx(
        np.mean([image.scores['average']['SD'] for image in got.images]))
    assert means['maximum']['salience'] == 1.0


def test_unfit_files_named_rest_scored(folders):
    """Files that do not fit are named and the rest is scored."""
    # Given a missing partner, another size, no image at all, two of one stem, a cut JPEG and a
    # tiny pair
    rgb, thermal, fused = folders.values()
    (thermal / 'a.bmp').unlink()
    cv2.imwrite(str(fused / 'b.png'), scene(1, (30, 64)))
    for name in 'defg':
        for folder in (rgb, thermal, fused):
            cv2.imwrite(str(folder / f'{name}.png'), scene(2, (20, 20) if name == 'g' else SIZE))
    (fused / 'd.png').write_bytes(b'nothing of the kind')
    cv2.imwrite(str(rgb / 'e.bmp'), scene(3))
    (rgb / 'f.png').unlink()
    jpeg = cv2.imencode('.jpg', scene(3))[1].tobytes()
    (rgb / 'f.jpg').write_bytes(jpeg[:len(jpeg) // 2])
    # when they are evaluated
    got = evaluate(rgb, thermal, fused=fused)
    # then each is named with its file and the reason
    assert [image.name for image in got.images] == ['c']
    found = {problem.name: (problem.file, problem.reason) for problem in got.problems}
    assert sorted(found) == ['a', 'b', 'd', 'e', 'f', 'g']
    assert found['a'] == (str(thermal / 'a'), f'no thermal image of this name in {thermal}')
    assert found['b'][0] == str(
        fused / 'b.png') and '64x30 pixels, but the visible image has 64x56' in found['b'][1]
    assert found['d'] == (str(fused / 'd.png'), 'cannot be read as an image')
    assert 'the same stem' in found['e'][1]
    assert found['f'][0] == str(rgb / 'f.jpg') and 'ends early' in found['f'][1]
    assert 'at least 41 x 41' in found['g'][1]


def test_visible_of_floats_is_refused(folders):
    (folders['rgb'] / 'a.png').unlink()
    cv2.imwrite(str(folders['rgb'] / 'a.tiff'), scene(1).astype(np.float32) / 255)
    got = evaluate(folders['rgb'], folders['thermal'], fused=folders['fused'])
    assert [problem.name for problem in got.problems] == ['a']
    assert '8-bit' in got.problems[0].reason


def test_16_bit_thermal_uses_gain_control(folders):
    """Thermal of 16-bit goes through the gain control."""
    # Given 16-bit thermal that is 8-bit thermal on an offset, so that the stretch nearly gives it
    # back
    ir = scene(10)
    (folders['thermal'] / 'a.bmp').unlink()
    cv2.imwrite(str(folders['thermal'] / 'a.png'), 7000 + ir.astype(np.uint16))
    pictures = {}
    evaluate(folders['rgb'], folders['thermal'], method=('average', BASELINES['average']),
             show=lambda images, fused, scores, look: pictures.update({images.name: images.ir}))
    assert pictures['a'].dtype == np.uint8
    assert np.corrcoef(pictures['a'].ravel(), ir.ravel())[0, 1] > 0.99


def test_black_hot_thermal_is_inverted(folders):
    pictures = {}
    evaluate(folders['rgb'], folders['thermal'], method=('average', BASELINES['average']),
             thermal_settings=ThermalSettings(polarity='black_hot'),
             show=lambda images, fused, scores, look: pictures.update({images.name: images.ir}))

    np.testing.assert_array_equal(pictures['a'], 255 - scene(10))


def test_a_sequence_has_flicker(folders):
    got = evaluate(folders['rgb'], folders['thermal'], method=('average', BASELINES['average']),
                   sequence=True)
    assert set(got.flicker) == set(BASELINES)
    content = strict(as_json(got))
    assert set(content['flicker']['average']) == {'fused', 'ir', 'vi_y', 'static_share', 'ratio'}
    assert content['mean']['flicker'] == content['flicker']['average']['ratio']


def test_unreadable_frame_interrupts_sequence(folders):
    """A frame that cannot be read interrupts the sequence."""
    (folders['thermal'] / 'b.bmp').unlink()
    got = evaluate(folders['rgb'], folders['thermal'], method=('average', BASELINES['average']),
                   sequence=True)
    assert np.isnan(got.flicker['average'].static_share)  # a and c do not follow each other


def test_json_null_for_undefined(folders):
    """JSON has null for what is not defined, and says what is infinite."""
    # Given flat thermal and visible images, the fused one the same
    flat = np.full(SIZE, 90, np.uint8)
    for folder, file in (('rgb', 'a.png'), ('thermal', 'a.bmp'), ('fused', 'a.png')):
        cv2.imwrite(str(folders[folder] / file), flat)
    got = strict(as_json(evaluate(folders['rgb'], folders['thermal'], fused=folders['fused'])))
    # then salience of that image has no value, its PSNR is infinite, and the means leave both out
    row = got['images'][0]
    assert list(row) == ['name', *METRICS]
    assert row['salience'] is row['detail'] is None and row['PSNR'] == 'inf'
    assert got['mean']['PSNR'] == pytest.approx(
        np.mean([image['PSNR'] for image in got['images'][1:]]))
    assert set(got['baselines']) == set(BASELINES)

def test_nothing_to_evaluate_is_an_error(folders, tmp_path):
    rgb, thermal, fused = folders.values()
    (tmp_path / 'empty').mkdir()
    with pytest.raises(EvaluationError, match='--fused'):
        evaluate(rgb, thermal)
    with pytest.raises(EvaluationError, match='not a folder'):
        evaluate(tmp_path / 'nowhere', thermal, fused=fused)
    with pytest.raises(EvaluationError, match='holds no image'):
        evaluate(rgb, tmp_path / 'empty', fused=fused)


def test_methods_by_their_names():
    assert method('maximum') == ('maximum', np.maximum)
    with pytest.raises(UnknownMethod, match='known: diffmf'):
        method('none-such')
    with pytest.raises(UnknownMethod, match='neither preset nor weights'):
        method('average', preset='light')


def test_page_is_self_contained_and_escaped(folders, tmp_path):
    (folders['rgb'] / 'a.png').rename(folders['rgb'] / 'a"<b>.png')
    (folders['thermal'] / 'a.bmp').rename(folders['thermal'] / 'a"<b>.bmp')
    page = eval_page.Page(tmp_path / 'page.html', count=3)
    page.write(evaluate(folders['rgb'], folders['thermal'],
                        method=('average', BASELINES['average']), show=page.add))
    text = (tmp_path / 'page.html').read_text(encoding='utf-8')
    assert text.count('src="data:image/jpeg;base64,') == 9
    assert '<b>.png' not in text and '<h2>a&quot;&lt;b&gt;</h2>' in text
    assert re.findall(r'(?:src|href)="(?!data:)', text) == []
    for name in ('name', *METRICS):
        assert f'<button data-name="{name}">' in text


def test_many_pictures_beside_page(folders, tmp_path):
    """Pictures of many images lie beside the page."""
    page = eval_page.Page(tmp_path / 'page.html', count=eval_page.EMBEDDED + 1)
    page.write(evaluate(folders['rgb'], folders['thermal'],
                        method=('average', BASELINES['average']), show=page.add))
    sources = re.findall(r'src="([^"]+)"', (tmp_path / 'page.html').read_text(encoding='utf-8'))
    assert len(sources) == 9
    for source in sources:
        assert cv2.imread(str(tmp_path / source)).shape[:2] == SIZE


def test_command_scores_and_writes(folders, tmp_path):
    pytest.importorskip('matplotlib', reason='matplotlib is not installed')
    done = diffmf_eval('--rgb', folders['rgb'], '--thermal', folders['thermal'], '--model',
                       'classical', '--json', tmp_path / 'e.json', '--html', tmp_path / 'e.html',
                       '--plot', tmp_path / 'e.png')
    assert done.returncode == 0, done.stderr
    assert 'mean, classical' in done.stdout and 'mean, maximum' in done.stdout
    content = strict((tmp_path / 'e.json').read_text())
    assert [image['name'] for image in content['images']] == ['a', 'b', 'c']
    assert list(content['mean']) == [*METRICS, 'flat_thermal']
    assert (tmp_path / 'e.html').stat().st_size > 5000
    drawn = cv2.imread(str(tmp_path / 'e.png'))
    assert drawn.shape[1] > 800 and drawn.std() > 10
    assert all(f'wrote {tmp_path}/e.{ending}\n' in done.stderr
               for ending in ('json', 'html', 'png'))


@pytest.mark.parametrize('width', [80, 120])
def test_tables_fit_a_terminal(folders, width):
    """Names and values are whole in a terminal of 80 columns."""
    (folders['rgb'] / 'c.png').rename(folders['rgb'] / 'a_long_name_of_a_picture.png')
    (folders['thermal'] / 'c.bmp').rename(folders['thermal'] / 'a_long_name_of_a_picture.bmp')
    got = evaluate(folders['rgb'], folders['thermal'], method=('average', BASELINES['average']),
                   sequence=True)
    found = {name: 0.5 if name in DECIMALS else 1000.0 for name in COLUMNS}
    got.detector['set'] = dict.fromkeys(BASELINES, found)
    console = Console(width=width, file=io.StringIO())

    for table in eval_page.tables(got, width=width, every=True):
        console.print(table)
    console.print(eval_page.detector_table(got))

    text = console.file.getvalue()
    assert '…' not in text and max(map(len, text.splitlines())) <= width
    words = re.findall(r'[\w.]+', text)
    assert {part for name in METRICS for part in name.split('_')} <= set(words)
    assert {'classical', 'detections', '1000', '0.500', '0.50'} <= set(words)


def test_metrics_of_literature_when_asked(folders):
    """The table shows what a fused image is for, and the literature with --all."""
    both = '--rgb', folders['rgb'], '--thermal', folders['thermal'], '--model', 'average'
    short, whole = diffmf_eval(*both), diffmf_eval(*both, '--all')

    assert 'saturation' in short.stdout and 'Qabf' not in short.stdout
    assert '--all prints 13 metrics of the literature and salience' in short.stdout
    assert 'Qabf' in whole.stdout and '--all' not in whole.stdout


def test_boxes_change_targets_and_say(folders, tmp_path):
    """Under the table stands what the targets are."""
    boxes = tmp_path / 'boxes.json'
    boxes.write_text(json.dumps({'a': {'people': [[10, 10, 30, 40]]}}))
    both = '--rgb', folders['rgb'], '--thermal', folders['thermal'], '--model', 'average'

    blobs = diffmf_eval(*both)
    boxed = diffmf_eval(*both, '--boxes', boxes, '--json', tmp_path / 'e.json')

    assert 'Targets are the hot blobs of thermal\n' in blobs.stdout
    assert 'the people of --boxes in 1 of 3 images; hot blobs of thermal in the others' in (
        boxed.stdout)
    assert strict((tmp_path / 'e.json').read_text())['images_with_boxes'] == 1


def test_command_lists_unscored(folders, tmp_path):
    """Command says what it could not score."""
    (folders['thermal'] / 'a.bmp').unlink()
    done = diffmf_eval('--rgb', folders['rgb'], '--thermal', folders['thermal'], '--fused',
                       folders['fused'], '--json', tmp_path / 'e.json')
    assert done.returncode == 1
    assert f'not scored: {folders["thermal"] / "a"}: no thermal image' in done.stderr
    assert '2 scored, 1 problems' in done.stderr
    assert [p['name'] for p in strict((tmp_path / 'e.json').read_text())['problems']] == ['a']


def test_command_with_nothing_to_score(folders, tmp_path):
    """Command with nothing that fits scores nothing."""
    for file in folders['thermal'].iterdir():
        file.rename(file.with_stem(f'other_{file.stem}'))
    done = diffmf_eval('--rgb', folders['rgb'], '--thermal', folders['thermal'], '--model',
                       'average', '--json', tmp_path / 'e.json')
    assert done.returncode == 1
    assert '0 scored, 6 problems' in done.stderr
    content = strict((tmp_path / 'e.json').read_text())
    assert content['images'] == [] and content['mean'] == dict.fromkeys(METRICS)


def test_wrong_choice_exits_2(folders):
    """Command without a choice or with an unknown model exits with 2."""
    both = '--rgb', folders['rgb'], '--thermal', folders['thermal']
    neither = diffmf_eval(*both)
    assert neither.returncode == 2 and 'scoring' not in neither.stderr  # said before it begins
    unknown = diffmf_eval(*both, '--model', 'sharpest')
    assert unknown.returncode == 2 and 'known: diffmf' in unknown.stderr
