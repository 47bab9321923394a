# SPDX-License-Identifier: Apache-2.0
"""The parameter file of the node without ROS, and the options made from the settings."""

from pathlib import Path

import pytest
from bad_inputs import ran

from diffmf_ros.cli.main import application
from diffmf_ros.core.parameter_spec import read_params
from diffmf_ros.core.settings import DEFAULTS, LIVE_ONLY, SettingsError, iter_specs, with_changes

SHIPPED = Path(__file__).parents[2] / 'config' / 'fusion.yaml'


def write(tmp_path, text):
    path = tmp_path / 'params.yaml'
    path.write_text(text, encoding='utf-8')
    return path


def test_the_shipped_file_is_every_default():
    values = read_params(SHIPPED)

    assert values.keys() == {item.name for item in iter_specs(DEFAULTS)}
    assert with_changes(DEFAULTS, values) == DEFAULTS


def test_named_node_wins_over_wildcard(tmp_path):
    """A node by name wins over every node and ROS keeps its own."""
    path = write(
        tmp_path,
        """
/fusion_node:
  ros__parameters: {thermal: {polarity: black_hot}, sync.max_distance_ms: 5, use_sim_time: true,
                    qos_overrides: {/fused/image: {publisher: {depth: 3}}}}
/**:
  ros__parameters: {thermal: {polarity: white_hot, gain_control: linear}}
/camera:
  ros__parameters: {exposure: 3}
""",
    )
    assert read_params(path) == {
        'thermal.polarity': 'black_hot',
        'thermal.gain_control': 'linear',
        'sync.max_distance_ms': 5,
    }


@pytest.mark.parametrize(
    'text, words',
    [
        ('/camera: {ros__parameters: {exposure: 3}}', 'it has parameters for /camera'),
        ('model: classical', 'it has no ros__parameters'),
        ('a: [', 'not readable as YAML'),
        ('version https://git-lfs.github.com/spec/v1\noid: x\nsize 12', 'Git LFS pointer'),
    ],
)
def test_file_without_node_is_refused(tmp_path, text, words):
    """A file that says nothing to the node is refused."""
    with pytest.raises(SettingsError, match=words):
        read_params(write(tmp_path, text))


@pytest.mark.parametrize(
    'arguments, words',
    [
        (('--polarity', 'warm'), 'thermal.polarity must be one of white_hot, black_hot'),
        (('--threads', '999'), 'threads must lie in 0 to 256'),
        (('--params', 'missing.yaml'), 'missing.yaml cannot be read'),
    ],
)
def test_options_use_node_wording(arguments, words):
    """Options are refused in the words of the node."""
    outcome = ran(['fuse', 'a.png', 'b.png', *arguments])

    assert outcome.code == 2 and words in outcome.said


def test_unknown_name_gets_suggestion(tmp_path):
    """An unknown name in the file is refused with the one that may be meant."""
    path = write(tmp_path, '/**: {ros__parameters: {modle: classical}}')

    outcome = ran(['replay', 'bag', 'out', '--params', str(path)])

    assert (
        outcome.code == 2
        and f'{path}: unknown setting' in outcome.said
        and 'did you mean model?' in outcome.said
    )


def test_wrong_names_are_named_together(tmp_path):
    path = write(tmp_path, '/**: {ros__parameters: {modle: x, zebra: 1, sync: {max_distance: 5}}}')

    outcome = ran(['fuse', 'a.png', 'b.png', '--params', str(path)])

    assert outcome.code == 2 and len(outcome.said) < 500
    for words in ("'modle', did you mean model?", "'zebra'",
                  "'sync.max_distance', did you mean sync.max_distance_ms?"):
        assert outcome.said.count(words) == 1


@pytest.mark.parametrize(
    'command, left_out',
    [('fuse', ('sync.', 'alignment.from_tf', 'alignment.rgb_rectified',
               'alignment.thermal_rectified', 'output.frame_id')), ('replay', ())],
)
def test_offline_settings_are_options(command, left_out):
    """Every setting that counts offline is an option."""
    known = {info.name: info.callback for info in application().registered_commands}
    options = {name for name in known[command].__annotations__}

    for item in iter_specs(DEFAULTS):
        name = {'alignment.file': 'alignment'}.get(item.name, item.name.rpartition('.')[2])
        assert (name in options) == (not item.name.startswith((*LIVE_ONLY, *left_out))), item.name
