# SPDX-License-Identifier: Apache-2.0
"""Where installed files are found, and when the Fast DDS profile is set."""

import sys
import xml.etree.ElementTree as ElementTree
from importlib.metadata import PackageNotFoundError

import pytest

from diffmf_ros.io import resources


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """Let neither the checkout, the Python prefix nor AMENT_PREFIX_PATH hold anything."""
    monkeypatch.setattr(resources, '__file__',
                        str(tmp_path / 'site-packages/diffmf_ros/io/resources.py'))
    monkeypatch.setattr(sys, 'prefix', str(tmp_path / 'prefix'))
    monkeypatch.setenv('AMENT_PREFIX_PATH', f'{tmp_path / "underlay"}:{tmp_path / "overlay"}')


@pytest.mark.parametrize('prefix', ['prefix', 'overlay'])
def test_file_found_under_prefix(nowhere, tmp_path, prefix):
    """A file is found under a prefix."""
    path = tmp_path / prefix / 'share/diffmf_ros/config/some.yaml'
    path.parent.mkdir(parents=True)
    path.touch()

    assert resources.find('config/some.yaml') == path


def test_missing_file_lists_places(nowhere, tmp_path):
    """A missing file is an error that lists the places."""
    with pytest.raises(resources.ResourceError, match='config/some.yaml is in none of') as caught:
        resources.find('config/some.yaml')

    for place in ('site-packages', 'prefix/share/diffmf_ros', 'overlay/share/diffmf_ros'):
        assert str(tmp_path / place) in str(caught.value)


def no_package(name):
    raise PackageNotFoundError(name)


@pytest.mark.parametrize('version_of, variables', [
    (lambda name: '7.1.6', ('FASTRTPS_DEFAULT_PROFILES_FILE',)),  # Jazzy
    (lambda name: '9.1.2', ('FASTDDS_DEFAULT_PROFILES_FILE',)),  # Kilted warns of the old name
    (no_package, ('FASTDDS_DEFAULT_PROFILES_FILE', 'FASTRTPS_DEFAULT_PROFILES_FILE')),
])
def test_variable_follows_distribution(monkeypatch, version_of, variables):
    """The variable that the distribution reads names the profile."""
    monkeypatch.setattr(resources, 'version', version_of)

    assert resources.fastdds_environment({}) == dict.fromkeys(
        variables, str(resources.find('config/fastdds.xml')))


@pytest.mark.parametrize('name', resources.FASTDDS_VARIABLES)
def test_user_profile_is_left_alone(name):
    """A profile of the user is left alone."""
    assert resources.fastdds_environment({name: '/home/user/dds.xml'}) == {}


def test_profile_sets_transports_only():
    """The profile sets large buffers and nothing but transports."""
    root = ElementTree.parse(resources.find('config/fastdds.xml')).getroot()
    values = {element.tag.rpartition('}')[2]: element.text for element in root.iter()}

    assert values['segment_size'] == str(16 * 2**20)
    assert values['sendBufferSize'] == values['receiveBufferSize'] == str(4 * 2**20)
    participant = next(element for element in root.iter() if element.tag.endswith('}participant'))
    rtps = [element.tag.rpartition('}')[2] for element in participant[0]]
    assert rtps == ['useBuiltinTransports', 'userTransports']
