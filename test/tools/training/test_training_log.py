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


def test_rows_average_twenty_iterations(tmp_path):
    """Rows are means of twenty iterations and columns what came."""
    rows = read_log(filled(tmp_path / 'log.csv', 45, total=2.0, glare=-1.0))
    assert [list(row) for row in rows] == [['iteration', 'total', 'glare', 'seconds']] * 2
    assert [(row['iteration'], row['total'], row['glare'])
            for row in rows] == [('20', '21', '-10.5'),
                                                                                ('40', '61',
                                                                                 '-30.5')]


def test_resumed_log_drops_repeats(tmp_path):
    """A resumed log drops what will come again."""
    filled(tmp_path / 'log.csv', 60, total=1.0)
    rows = read_log(filled(tmp_path / 'log.csv', 20, start=40, total=3.0))
    assert [(row['iteration'], row['total']) for row in rows] == [('20', '10.5'), ('40', '30.5'),
                                                                  ('60', '151.5')]


def test_later_term_gets_column(tmp_path):
    """A term that comes later gets a column."""
    filled(tmp_path / 'log.csv', 20, total=1.0)
    rows = read_log(filled(tmp_path / 'log.csv', 20, start=20, total=1.0, glare=2.0))
    assert [(row['total'], row['glare']) for row in rows] == [('10.5', ''), ('30.5', '61')]


def test_plot_panel_per_term(tmp_path):
    """The plot has a panel for the loss and every term."""
    filled(tmp_path / 'log.csv', 100, total=1.0, glare=-1.0, gradient_norm=5.0, learning_rate=0.1)
    assert plot_log(tmp_path / 'log.csv', tmp_path / 'two.png') is None
    filled(tmp_path / 'log.csv', 100, total=1.0, learning_rate=0.1)
    assert plot_log(tmp_path / 'log.csv', tmp_path / 'one.png') is None
    one, two = (cv2.imread(str(tmp_path / f'{name}.png')) for name in ('one', 'two'))
    assert two.shape == (2 * one.shape[0], *one.shape[1:])
    assert two.std() > 10


def test_no_plot_before_first_row(tmp_path):
    """Nothing is drawn before the first row."""
    assert plot_log(filled(tmp_path / 'log.csv', 19, total=1.0), tmp_path / 'loss.png') is None
    assert not (tmp_path / 'loss.png').exists()


def test_missing_matplotlib_names_install(tmp_path, monkeypatch):
    """Without matplotlib it says how to get it."""
    monkeypatch.setitem(sys.modules, 'matplotlib.figure', None)
    said = plot_log(filled(tmp_path / 'log.csv', 20, total=1.0), tmp_path / 'loss.png')
    assert said.startswith('no loss.png: matplotlib cannot be imported')
    assert 'pip install matplotlib' in said
