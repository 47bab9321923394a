# SPDX-License-Identifier: Apache-2.0
"""The log of a training and its plot."""

import sys

import cv2

from diffmf_ros.tools.training.log import Log, plot_log, read_log


def filled(path, iterations, *, start=0, **terms):
    """Log terms, every value times the iteration, for so many iterations after start."""
    log = Log(path, start)
    for i in range(start + 1, start + iterations + 1):
        log.add(i, {name: value * i for name, value in terms.items()})
    return path


def test_rows_are_means_of_twenty_iterations_and_columns_what_came(tmp_path):
    rows = read_log(filled(tmp_path / 'log.csv', 45, total=2.0, glare=-1.0))
    assert [list(row) for row in rows] == [['iteration', 'total', 'glare', 'seconds']] * 2
    assert [(row['iteration'], row['total'], row['glare'])
            for row in rows] == [('20', '21', '-10.5'),
                                                                                ('40', '61',
                                                                                 '-30.5')]


def test_a_resumed_log_drops_what_will_come_again(tmp_path):
    filled(tmp_path / 'log.csv', 60, total=1.0)
    rows = read_log(filled(tmp_path / 'log.csv', 20, start=40, total=3.0))
    assert [(row['iteration'], row['total']) for row in rows] == [('20', '10.5'), ('40', '30.5'),
                                                                  ('60', '151.5')]


def test_a_term_that_comes_later_gets_a_column(tmp_path):
    filled(tmp_path / 'log.csv', 20, total=1.0)
    rows = read_log(filled(tmp_path / 'log.csv', 20, start=20, total=1.0, glare=2.0))
    assert [(row['total'], row['glare']) for row in rows] == [('10.5', ''), ('30.5', '61')]


def test_the_plot_has_a_panel_for_the_loss_and_every_term(tmp_path):
    filled(tmp_path / 'log.csv', 100, total=1.0, glare=-1.0, gradient_norm=5.0, learning_rate=0.1)
    assert plot_log(tmp_path / 'log.csv', tmp_path / 'two.png') is None
    filled(tmp_path / 'log.csv', 100, total=1.0, learning_rate=0.1)
    assert plot_log(tmp_path / 'log.csv', tmp_path / 'one.png') is None
    one, two = (cv2.imread(str(tmp_path / f'{name}.png')) for name in ('one', 'two'))
    assert two.shape == (2 * one.shape[0], *one.shape[1:])
    assert two.std() > 10


def test_nothing_is_drawn_before_the_first_row(tmp_path):
    assert plot_log(filled(tmp_path / 'log.csv', 19, total=1.0), tmp_path / 'loss.png') is None
    assert not (tmp_path / 'loss.png').exists()


def test_without_matplotlib_it_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'matplotlib.figure', None)
    said = plot_log(filled(tmp_path / 'log.csv', 20, total=1.0), tmp_path / 'loss.png')
    assert said.startswith('no loss.png: matplotlib cannot be imported')
    assert 'pip install matplotlib' in said
