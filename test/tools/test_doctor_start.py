# SPDX-License-Identifier: Apache-2.0
"""`diffmf doctor` says whether rclpy is there and a node starts, and what to do where not."""

import pytest

from diffmf_ros.tools.doctor import Imported, Severity, ros

GOOD, WARN, _, FAIL = Severity


def by_name(findings):
    return {finding.name: finding for finding in findings}


def test_without_rclpy_the_node_cannot_run(monkeypatch):
    monkeypatch.setattr(ros, 'try_imports', lambda names: {
        name: Imported(reason='' if name == 'sensor_msgs.msg' else 'not found') for name in names})
    found = by_name(ros.libraries())
    assert found['rclpy'].state is FAIL and 'setup.bash' in found['rclpy'].advice
    assert found['sensor_msgs.msg'].state is GOOD
    assert found['cv_bridge'].state is WARN
    assert 'middleware' not in found


def test_unloadable_middleware_blocks(monkeypatch):
    """A middleware that does not load blocks."""
    monkeypatch.setattr(ros, 'try_imports', lambda names: {name: Imported('1') for name in names})
    monkeypatch.setattr(ros, 'try_code', lambda code: Imported(reason='librmw_x.so: cannot open'))
    found = by_name(ros.libraries())
    assert found['middleware'].state is FAIL
    assert 'RMW_IMPLEMENTATION' in found['middleware'].advice


@pytest.mark.parametrize('variable, value, name, said, advice', [
    ('ROS_DOMAIN_ID', '500', 'start', 'ROS_DOMAIN_ID=500', 'from 0 to 232'),
    ('ROS_DOMAIN_ID', 'abc', 'start', 'not an integral number', 'from 0 to 232'),
    ('ROS_LOG_DIR', '/proc/x', 'start', "'/proc/x'", 'can be written'),
    ('RMW_IMPLEMENTATION', 'rmw_none', 'rclpy', "'rmw_none'", 'install the middleware'),
])
def test_variables_that_keep_a_node_from_starting(domain, monkeypatch, variable, value, name, said,
                                                  advice):
    """Doctor notices what keeps a node from starting, and advises on that alone."""
    monkeypatch.setattr(ros, 'OPTIONAL', {})
    assert not [finding for finding in ros.libraries() if finding.state is not GOOD]
    monkeypatch.setenv(variable, value)
    found = [finding for finding in ros.libraries() if finding.state is FAIL]
    assert said in by_name(found)[name].text
    assert len({finding.advice for finding in found}) == 1 and advice in found[0].advice
