# SPDX-License-Identifier: Apache-2.0
"""A default exists once: settings, declared parameters, config/fusion.yaml and the pages agree."""

import os
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from rclpy.exceptions import InvalidParameterValueException
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter

from diffmf_ros.core.settings import DEFAULTS, RealtimeSettings, iter_specs
from diffmf_ros.io.resources import find
from diffmf_ros.ros import parameters, process
from diffmf_ros.ros.fusion_node import FusionNode

NODE = 'diffmf_ros.ros.fusion_node'
ITEMS = {item.name: item for item in iter_specs(DEFAULTS)}
ROOT = Path(__file__).parents[2]


@pytest.fixture
def make_node(peer):
    """Return make_node(name=value, ...) -> an unconfigured node with these parameters."""
    nodes = []

    def make(**overrides):
        given = [Parameter(name.replace('__', '.'), value=value) for name,
                 value in overrides.items()]
        nodes.append(FusionNode(context=peer.context, parameter_overrides=given))
        return nodes[-1]

    yield make
    for node in nodes:
        node.trigger_shutdown()
        node.destroy_node()


def flat(tree, prefix=''):
    """Return a nested mapping as one with dotted names."""
    result = {}
    for name, value in tree.items():
        result |= flat(value, f'{prefix}{name}.') if isinstance(value,
                                                                dict) else {prefix + name: value}
    return result


def test_settings_declared_with_default_range(make_node):
    """Every setting is declared with its default and range."""
    node = make_node()

    declared = {name: node.get_parameter(name).value for name in ITEMS}
    assert declared == {name: item.value for name, item in ITEMS.items()}
    assert parameters.read(node) == DEFAULTS
    for name, item in ITEMS.items():
        shown = node.describe_parameter(name)
        assert shown.description == item.description
        for bounds in [*shown.floating_point_range, *shown.integer_range]:
            assert (bounds.from_value, bounds.to_value) == (item.low, item.high)
        assert bool(shown.floating_point_range or shown.integer_range) == (item.low is not None)
        assert shown.additional_constraints == (f'one of: {", ".join(item.choices)}'
                                                if item.choices else '')


def test_yaml_shows_every_default():
    """The YAML shows every default under its description."""
    text = find('config/fusion.yaml').read_text()

    assert flat(yaml.safe_load(text)['/**']['ros__parameters']) == {n: i.value for n,
                                                                    i in ITEMS.items()}
    for name, item in ITEMS.items():
        line = rf'# {re.escape(item.description)}[^\n]*\n +{name.rpartition(".")[2]}:'
        assert re.search(line, text), f'{name} needs its description in the line above'


def listed_in(page):
    """Return {name: default} of the rows of settings in the tables of a page."""
    rows = re.findall(r'^\|\s*`([\w.]+)`\s*\|\s*`([^`]*)`\s*\|', (ROOT / page).read_text(),
                      re.MULTILINE)
    return {name: yaml.safe_load(value) if value not in ("''", '') else '' for name, value in rows
            if name in ITEMS}


def test_page_lists_every_default():
    """The page of parameters lists every default."""
    assert listed_in('docs/parameters.md') == {name: item.value for name, item in ITEMS.items()}


def test_the_readme_lists_five_defaults():
    listed = listed_in('README.md')

    assert len(listed) == 5
    assert listed == {name: ITEMS[name].value for name in listed}


def test_overrides_accept_integers_for_floats(make_node):
    """Overrides are read and integers pass for floats."""
    node = make_node(model='classical', scale=1, sync__max_distance_ms=40)

    settings = parameters.read(node)

    assert (settings.model, settings.scale, settings.sync.max_distance_ms) == (
        'classical', 1.0, 40.0)
    assert type(settings.scale) is float


@pytest.mark.parametrize('overrides', [
    {'model': 'clasical'}, {'scale': 'large'}, {'weights': 3}, {'thermal__low_percentile': 50.0,
                                                               'thermal__high_percentile': 50.0}])
def test_a_bad_value_fails_configure(make_node, overrides):
    node = make_node(**overrides)

    assert not node.start()
    assert node._state_machine.current_state[1] == 'unconfigured'


def test_out_of_range_is_refused(make_node):
    """A value out of range is refused at once."""
    with pytest.raises(InvalidParameterValueException, match='scale out of range'):
        make_node(scale=7.0)


def test_process_names_bad_value(start):
    """The process names a bad value and ends with 1."""
    for override, expected in (('model:=clasical', 'one of diffmf, s4fusion, refinefuse'),
                               ('scale:=7.0', 'scale')):
        node = start(NODE, '--ros-args', '-p', override)

        assert node.wait() == 1
        assert expected in node.output and 'Traceback' not in node.output


def test_changes_hold_in_every_state(make_node):
    node = make_node(model='classical')
    for transition, scale in ((node.trigger_configure, 0.5), (node.trigger_activate, 0.4),
                              (node.trigger_deactivate, 0.3), (node.trigger_cleanup, 0.2)):
        assert node.set_parameters([Parameter('scale', value=scale)])[0].successful
        assert parameters.read(node).scale == scale
        transition()
    assert node.set_parameters([Parameter('use_sim_time', value=True)])[0].successful


def test_unconfigured_node_refuses_bad_value(make_node):
    """An unconfigured node refuses what no configure would take."""
    node = make_node()

    for name, value in (('model', 'clasical'), ('scale', 'large'), ('threads', -1)):
        assert not node.set_parameters([Parameter(name, value=value)])[0].successful, name
    assert parameters.read(node) == DEFAULTS


def test_what_is_dumped_loads_again_whole(make_node, peer):
    # given all parameters of a node with publishers, those of its quality of service included, as
    # a dump has them
    node = make_node(model='classical')
    assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
    names = sorted(node._parameters)
    dumped = [node.get_parameter(name) for name in names]
    assert sum(name.startswith('qos_overrides.') for name in names) >= 24

    # when they are loaded at once, as they are and with one change
    unchanged = node.set_parameters_atomically(dumped)
    changed = node.set_parameters_atomically(
        [Parameter('scale', value=0.5) if parameter.name == 'scale' else parameter
         for parameter in dumped])

    # then nothing is refused, and what is read-only still is
    assert unchanged.successful and changed.successful, (unchanged.reason, changed.reason)
    assert node.get_parameter('scale').value == 0.5
    fixed = next(name for name in names if name.endswith('.depth')
                 and name.startswith('qos_overrides.'))
    refused = node.set_parameters_atomically([Parameter(fixed, value=7)])
    assert not refused.successful and 'read-only' in refused.reason


def test_refused_priority_names_cure(monkeypatch):
    """What the system refuses is said with its cure; what is not asked for is left alone."""
    def refuse(*asked):
        raise PermissionError(1, 'Operation not permitted')

    monkeypatch.setattr(process, '_started', {})
    monkeypatch.setattr(os, 'sched_setscheduler', refuse)
    monkeypatch.setattr(os, 'sched_setaffinity', lambda thread, cpus: None)
    assert process.take_priority(RealtimeSettings()) == []

    said = process.take_priority(RealtimeSettings(thread_priority=10, cpu_affinity='2,3'))

    assert said == ['realtime.thread_priority 10: Operation not permitted; allow it with '
                    'LimitRTPRIO= and RestrictRealtime=no (systemd) or ulimit -r']


def test_priority_of_threads_comes_and_goes(monkeypatch):
    """Every thread is scheduled and pinned as asked, though one has ended, and later as before."""
    before = os.sched_getaffinity(0), (os.sched_getscheduler(0), os.sched_getparam(0))
    asked, locked = [], []

    def record(thread, *to):
        asked.append((thread, *to))
        if thread == asked[0][0]:
            raise ProcessLookupError(3, 'No such process')

    monkeypatch.setattr(process, '_started', {})
    monkeypatch.setattr(os, 'sched_setscheduler', record)
    monkeypatch.setattr(os, 'sched_setaffinity', record)
    monkeypatch.setattr(process.ctypes, 'CDLL', lambda *_, **__: SimpleNamespace(
        mlockall=lambda pages: locked.append(True), munlockall=lambda: locked.append(False)))

    for settings, (cpus, scheduled) in (
            (RealtimeSettings(10, '2,3', True), ({2, 3}, (os.SCHED_FIFO, os.sched_param(10)))),
            (RealtimeSettings(), before)):
        asked.clear()
        threads = list(map(int, os.listdir('/proc/self/task')))
        assert process.take_priority(settings) == []
        assert asked == [*((thread, cpus) for thread in threads),
                         *((thread, *scheduled) for thread in threads)]
    assert [bool(now) for now in locked] == [True, False]
