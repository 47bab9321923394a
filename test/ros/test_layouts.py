# SPDX-License-Identifier: Apache-2.0
"""The layouts for RViz and Foxglove name topics and keys that there are."""

import json
import re
from pathlib import Path

import pytest
import yaml

pytest.importorskip('rclpy', reason='rclpy is not installed')

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus  # noqa: E402
from sensor_msgs.msg import Image  # noqa: E402

from diffmf_ros.ros import status, topics  # noqa: E402

CONFIG = Path(__file__).resolve().parents[2] / 'config'
TOPICS = {'/rgb/image_raw', '/thermal/image_raw', '/diagnostics',
          *(f'/{topic}' for topic in topics.TYPES)}


def test_displays_and_panels_take_their_topics():
    """Classes of RViz and panels of Foxglove are those for the type of their topic."""
    types = {f'/{topic}': kind for topic, kind in topics.TYPES.items()} | {
        '/rgb/image_raw': Image, '/thermal/image_raw': Image, '/diagnostics': DiagnosticArray}
    rviz = yaml.safe_load((CONFIG / 'view.rviz').read_text())
    panels = json.loads((CONFIG / 'foxglove.json').read_text())['configById']

    assert {one['Class'] for one in rviz['Panels']} == {'rviz_common/Displays', 'rviz_common/Time'}
    for one in rviz['Visualization Manager']['Displays']:
        assert one['Class'] == 'rviz_default_plugins/Image'
        assert types[one['Topic']['Value']] is Image
    for name, panel in panels.items():
        kind = name.partition('!')[0]
        if kind == 'Image':
            assert types[panel['imageMode']['imageTopic']] is Image
        elif kind == 'DiagnosticSummary':
            assert types[panel['topicToRender']] is DiagnosticArray
        else:
            assert kind in ('Plot', 'StateTransitions')
            for path in panel['paths']:
                topic, field, values = re.match(r'([^.]+)\.(\w+)\[[^]]*](?:\{.*?\})?\.(\w+)',
                                                path['value']).groups()
                assert field in types[topic].get_fields_and_field_types()
                assert values in DiagnosticStatus.get_fields_and_field_types()


def test_rviz_topics_and_reliability():
    """RViz shows topics of the node reliably where the node sends so."""
    displays = yaml.safe_load((CONFIG / 'view.rviz').read_text())['Visualization Manager'][
        'Displays']

    topics = {one['Topic']['Value']: one['Topic']['Reliability Policy'] for one in displays}
    assert topics.keys() <= TOPICS and len(topics) == 4
    # cameras often offer best effort alone, which a reliable subscription does not match
    assert {name for name, policy in topics.items() if policy == 'Reliable'} == {
        name for name in topics if name.startswith('/fused/')}


def test_foxglove_topics_and_keys():
    """Foxglove shows topics and keys of the node."""
    layout = json.loads((CONFIG / 'foxglove.json').read_text())
    text = json.dumps(layout)

    topics = set(re.findall(r'"(/[\w/]+)[".]', text))
    assert topics <= TOPICS and {'/fused/image', '/diagnostics', '/fused/status'} <= topics
    keys = set(re.findall(r'key==\\"(\w+)', text))
    known = status.values_of(status.Snapshot()).keys() | {'mode', 'rgb', 'thermal'}
    assert keys and keys <= known
    names = set(re.findall(r'name==\\"([^"\\]+)', text))
    assert names == {'fusion_node: fusion'}  # as DiagnosticsPublisher calls it by default
    # and every panel of the configuration is on the screen, once
    assert sorted(panels_of(layout['layout'])) == sorted(layout['configById'])


def panels_of(split) -> list[str]:
    """The panels of a layout, which is split in two again and again."""
    return [split] if isinstance(split, str) else panels_of(split['first']) + panels_of(
        split['second'])
