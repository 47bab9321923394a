# SPDX-License-Identifier: Apache-2.0
"""config/sros2_policy.xml has exactly what the node publishes, receives and serves."""

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

POLICY = Path(__file__).parents[2] / 'config' / 'sros2_policy.xml'
# Received only under a simulated clock, or with the package tf2_ros.
SOMETIMES = {'/clock', '/tf', '/tf_static'}


@pytest.fixture(scope='module')
def allowed():
    """Return {(kind, verb): absolute names} of the policy."""
    profile = ElementTree.parse(POLICY).getroot().find('.//profile')
    assert (profile.get('ns'), profile.get('node')) == ('/', 'fusion_node')
    found = {}
    for group in profile:
        ((verb, permission),) = group.attrib.items()
        assert permission == 'ALLOW'
        found[group.tag, verb] = {_absolute(entry.text) for entry in group}
    return found


def _absolute(name):
    return name if name.startswith('/') else name.replace(
        '~', '/fusion_node') if name[0] == '~' else f'/{name}'


def names(node, what):
    return {name for name,
            _ in getattr(node, f'get_{what}_names_and_types_by_node')('fusion_node', '/')}


def test_policy_matches_node_exactly(make_cameras, allowed):
    """The policy has exactly what the node uses."""
    # Given a node, and what it receives besides with other settings
    raw = make_cameras().node
    published, served, received = (names(raw, what)
                                   for what in ('publisher', 'service', 'subscriber'))
    raw.finish()
    other = make_cameras(input__rgb_transport='compressed', input__thermal_transport='compressed',
                         health__shutter_flag=True, alignment__depth_from_range=True).node
    received |= names(other, 'subscriber')

    # Then the policy allows that and nothing else
    assert allowed['topics', 'publish'] == published
    assert allowed['services', 'reply'] == served
    assert allowed['topics', 'subscribe'] - SOMETIMES == received
    assert names(other, 'client') == set()
