# SPDX-License-Identifier: Apache-2.0
"""Doubts about the inputs of an evaluation: boxes, folders, sizes, frames, and older pages."""

import json

import cv2
import numpy as np
import pytest
from diffmf_process import diffmf

from diffmf_ros.tools.evaluation import eval_page
from diffmf_ros.tools.evaluation.detection_scores import BoxesError, Truth, read_boxes
from diffmf_ros.tools.evaluation.detector import DetectorError, choose, read_classes
from diffmf_ros.tools.evaluation.eval_doubts import boxes_note, flicker_note, swapped_note
from diffmf_ros.tools.evaluation.eval_files import EvaluationError, data_sets, sources
from diffmf_ros.tools.evaluation.evaluate import evaluate
from diffmf_ros.tools.evaluation.scoring import BASELINES

SIZE = 48, 64  # height, width
AVERAGE = 'average', BASELINES['average']


def noise(seed, shape=SIZE):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


@pytest.fixture
def home(tmp_path):
    """A data set `town` of the pairs a and b in vi and ir, color and gray noise."""
    folder = tmp_path / 'town'
    for kind, shape in (('vi', (*SIZE, 3)), ('ir', SIZE)):
        (folder / kind).mkdir(parents=True)
        for number, name in enumerate('ab'):
            cv2.imwrite(str(folder / kind / f'{name}.png'), noise(number, shape))
    return folder


def images_of(home, first='vi', second='ir'):
    return sources(data_sets(rgb=home / first, thermal=home / second, pairs=None, fused=None))[0]


def boxes_file(home, content):
    path = home / 'boxes.json'
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def both(home):
    return '--rgb', home / 'vi', '--thermal', home / 'ir', '--model', 'average'


def test_boxes_of_no_image_refused(home):
    """Boxes of which none is of an image end the command before anything is scored."""
    path = boxes_file(home, {'city_a': {'people': []}, 'city_b': {'people': []}})
    done = diffmf('eval', *both(home), '--boxes', path, '--html', home / 'page.html')
    said = ' '.join(done.stderr.split())
    assert done.returncode == 2 and 'scoring' not in said
    assert 'none of its 2 entries, such as city_a, is of an image' in said
    assert 'DATASET_STEM or STEM, such as town_a or a' in said
    assert not (home / 'page.html').exists()


def test_some_boxes_without_images_noted(home):
    """Entries of no image are counted, and three of them named."""
    names = ['town_a', 'b', *(f'x{number}' for number in range(4))]
    path = boxes_file(home, {name: {'people': []} for name in names})
    assert boxes_note(path, read_boxes(path), images_of(home)) == (
        '4 of 6 entries of --boxes are of no image: x0, x1, x2, ...')
    path = boxes_file(home, {name: {'people': []} for name in names[:2]})
    assert boxes_note(path, read_boxes(path), images_of(home)) == ''


@pytest.mark.parametrize(('box', 'fits'), [
    ((0, 0, 640, 480), True),
    ((-12, -9, 652, 489), True),  # 2 % of 640 and of 480
    ((600, 400, 656, 480), False),
    ((10, -11, 60, 100), False),
    ((641, 10, 645, 30), False),  # beside the image
    ((-4, 10, -1, 30), False),
])
def test_boxes_a_little_over_border(box, fits):
    """Boxes may reach a little over the border, and none lies beside the image."""
    none = np.zeros((0, 4))
    for truth in (Truth(np.array([box]), none, 'a'), Truth(none, np.array([box]), 'a')):
        assert (truth.outside(640, 480) == '') is fits


def test_boxes_of_another_resolution_named(home):
    """An image with boxes of another resolution is not scored, and all is named."""
    path = boxes_file(home, {'town_a': {'people': [[10, 10, 20, 30], [500, 300, 540, 400]]},
                             'b': {'people': [[1, 1, 67, 48]]}})
    got = evaluate(home / 'vi', home / 'ir', method=AVERAGE, boxes=read_boxes(path))
    assert [image.name for image in got.images] == ['b']  # 3 pixels over the border
    (problem,) = got.problems
    assert problem.file == str(home / 'vi' / 'a.png')
    assert ('[500.0, 300.0, 540.0, 400.0] of its people in --boxes, entry town_a, reaches out of '
            'the image of 64x48 pixels: boxes of another resolution?') in problem.reason


@pytest.mark.parametrize('text', ['{"a": {"people": []}, "a": {"people": []}}',
                                  '{"a": {"people": [], "people": []}}'])
def test_names_twice_in_boxes_refused(home, text):
    with pytest.raises(BoxesError, match='stands in one object 2 times'):
        read_boxes(boxes_file(home, text))


def test_folder_for_boxes_is_said(home):
    with pytest.raises(BoxesError, match=r'vi is a folder; expected a JSON file'):
        read_boxes(home / 'vi')


def test_swapped_folders_are_noted(home):
    """Folders look swapped where all thermal images are in color and all visible ones gray."""
    assert swapped_note(images_of(home)) == ''
    assert 'look swapped' in swapped_note(images_of(home, 'ir', 'vi'))
    cv2.imwrite(str(home / 'vi' / 'b.png'), noise(5))  # one pair of two gray images
    assert swapped_note(images_of(home, 'ir', 'vi')) == ''
    (home / 'vi' / 'b.png').write_bytes(b'no image')
    assert 'look swapped' in swapped_note(images_of(home, 'ir', 'vi'))
    (home / 'vi' / 'a.png').write_bytes(b'no image')
    assert swapped_note(images_of(home, 'ir', 'vi')) == ''


def test_swapped_folders_said_once(home):
    done = diffmf('eval', '--rgb', home / 'ir', '--thermal', home / 'vi', '--model', 'average')
    assert done.stderr.count('note: the folders look swapped') == 1


def test_flicker_of_moving_frames_noted(home):
    """Flicker says little of frames of which nothing is static, and is not measured of one."""
    def note():
        return flicker_note(evaluate(home / 'vi', home / 'ir', method=AVERAGE, sequence=True))

    assert 'flicker says little: 1.1 % of the pixels' in note()
    for kind in ('vi', 'ir'):
        (home / kind / 'b.png').write_bytes((home / kind / 'a.png').read_bytes())
    assert note() == ''
    (home / 'vi' / 'b.png').unlink()
    assert 'flicker is not measured' in note()
    assert flicker_note(evaluate(home / 'vi', home / 'ir', method=AVERAGE)) == ''


def test_wrong_count_of_classes_named():
    """Two names for an output of 80 classes are the fault that is said."""
    with pytest.raises(DetectorError, match=r'2 class names .* classes for 80 of yolox: name'):
        choose((84, 85), (64, 64), classes=2)
    with pytest.raises(DetectorError, match='of no known layout'):
        choose((7, 3), (64, 64), classes=2)


def test_missing_file_of_classes_said(tmp_path):
    with pytest.raises(DetectorError, match=r'nope\.txt does not exist'):
        read_classes(str(tmp_path / 'nope.txt'))
    with pytest.raises(DetectorError, match='is a folder'):
        read_classes(str(tmp_path))


def test_tiny_images_in_plain_words(home):
    """Images that are too small are named, and no empty table is printed."""
    for kind, shape in (('vi', (40, 64, 3)), ('ir', (40, 64))):
        for name in 'ab':
            cv2.imwrite(str(home / kind / f'{name}.png'), noise(1, shape))
    done = diffmf('eval', *both(home))
    assert done.returncode == 1 and done.stdout == ''
    assert (f'not scored: {home}/vi/a.png: 64x40 pixels; the metrics need at least 41 x 41'
            in done.stderr)
    assert '{' not in done.stderr


def test_missing_folder_of_fused_set(home, tmp_path):
    """A folder of fused images is expected for each data set, and what it lacks is named."""
    (tmp_path / 'fused').mkdir()
    with pytest.raises(EvaluationError, match='has no folder town: .* for each data set'):
        data_sets(rgb=None, thermal=None, pairs=tmp_path, fused=tmp_path / 'fused')


def write_page(home, count):
    page = eval_page.Page(home / 'page.html', count=count)
    return page.write(evaluate(home / 'vi', home / 'ir', method=AVERAGE, show=page.add))


def test_older_pictures_of_page_removed(home):
    """Pictures of the page that is replaced are removed, with their folder where it is empty."""
    many, beside = eval_page.EMBEDDED + 1, home / 'page_files'
    assert write_page(home, many) == ''
    (beside / '00007_RGB.jpg').write_bytes(b'of an older page')
    assert write_page(home, many) == ''
    assert len(list(beside.iterdir())) == 6 and not (beside / '00007_RGB.jpg').exists()
    assert write_page(home, 2) == ''
    assert not beside.exists()


def test_folder_with_other_files_stays(home):
    """A folder with other files than pictures of a page stays as it is, and a note says so."""
    write_page(home, eval_page.EMBEDDED + 1)
    (home / 'page_files' / 'style.css').write_text('of a page that a browser saved')
    assert write_page(home, 2).endswith('page_files, which stays')
    assert len(list((home / 'page_files').iterdir())) == 7
