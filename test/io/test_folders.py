# SPDX-License-Identifier: Apache-2.0
"""Folders of registered pairs, as training and scoring read them."""

import cv2
import numpy as np
import pytest

from diffmf_ros.io.folders import FolderError, pair_files, read_pair
from diffmf_ros.tools.evaluation.eval_files import matched


@pytest.fixture
def root(tmp_path):
    """Two data sets of two pairs each."""
    for dataset in 'xy':
        for sub in ('ir', 'vi'):
            (tmp_path / dataset / sub).mkdir(parents=True)
            for name, level in (('a', 10), ('b', 20)):
                image = np.full((4, 6), level + (sub == 'vi'), np.uint8)
                cv2.imwrite(str(tmp_path / dataset / sub / f'{name}.png'), image)
    return tmp_path


def test_nested_folders_are_found(root):
    """Pairs of every folder below are found."""
    found = [(vi.relative_to(root).as_posix(), ir.relative_to(root).as_posix()) for vi,
             ir in pair_files(root)]
    assert found == [(f'{d}/vi/{n}.png', f'{d}/ir/{n}.png') for d in 'xy' for n in 'ab']


def test_hidden_files_are_no_images(root):
    """What macOS leaves beside a file, in the name of the file, is no image."""
    before = pair_files(root), matched({'visible': root / 'x/vi', 'thermal': root / 'x/ir'})

    (root / 'x' / 'vi' / '._a.png').write_bytes(b'\0\5\x16\7Mac OS X')

    assert before == (pair_files(root),
                      matched({'visible': root / 'x/vi', 'thermal': root / 'x/ir'}))


def test_a_pair_is_read_as_luminance(root):
    pair = read_pair(*pair_files(root)[1])
    assert (pair.name, pair.ir.shape, pair.ir[0, 0], pair.vi_y[0, 0]) == ('b', (4, 6), 20, 21)


def test_file_without_partner_is_named(root):
    (root / 'y' / 'vi' / 'b.png').unlink()
    with pytest.raises(FolderError, match='no partner in .*vi: b'):
        pair_files(root)


def test_folder_without_pairs_is_explained(tmp_path):
    """Folder without pairs says what is expected."""
    with pytest.raises(FolderError, match='expected folders vi and ir'):
        pair_files(tmp_path)


def test_unreadable_file_is_named(root):
    (root / 'x' / 'ir' / 'a.png').write_text('no image')
    with pytest.raises(FolderError, match='a.png cannot be read as an image'):
        read_pair(*pair_files(root)[0])


def test_pair_of_two_sizes_is_refused(root):
    cv2.imwrite(str(root / 'x' / 'ir' / 'a.png'), np.zeros((5, 6), np.uint8))
    with pytest.raises(FolderError, match='has one size'):
        read_pair(*pair_files(root)[0])
