# SPDX-License-Identifier: Apache-2.0
"""A node that fails is gone at once, with a reason.

One that is told to stop obeys in any state.
"""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import Cameras
from dying_node import HANGS
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.srv import SetParameters
from rclpy.parameter import Parameter
from std_srvs.srv import SetBool

from diffmf_ros.ros.frame_loop import BackgroundLoader
from diffmf_ros.ros.process import shared_memory

OBEYED_S = 2.0
CHAOS_S = 240.0  # before pytest ends the test, with the processes left behind
GONE_S = 10.0  # far below the 20 s after which DDS gives up a participant that went without a word


@pytest.fixture
def start_dying(start, monkeypatch):
    """Return start(fault) -> Child: a node of classical fusion with one of dying_node.FAULTS."""
    monkeypatch.setenv('PYTHONPATH', str(Path(__file__).parents[1]), prepend=':')
    # A subscription of automatic reliability is made anew for the cameras of the test: a frame can
    # be lost.
    return lambda fault: start('dying_node', fault, '--ros-args', '-p', 'model:=classical',
                               '-p', 'qos.reliability:=reliable')


def request(peer, service_type, name, message):
    """Send a request to the node, without waiting for an answer."""
    client = peer.node.create_client(service_type, f'/fusion_node/{name}')
    peer.wait_for(client.service_is_ready, f'the service {name}')
    client.call_async(message)


def send_pair(peer):
    """Send a pair, once the node listens to the cameras."""
    Cameras(peer).pair()


CAUSES = {
    'timer': lambda peer: None,
    'subscription': send_pair,
    'service': lambda peer: request(peer, SetBool, 'enable', SetBool.Request(data=False)),
    'parameter': lambda peer: request(peer, SetParameters, 'set_parameters', SetParameters.Request(
        parameters=[Parameter('output.color', value='gray').to_parameter_msg()])),
    'transition': lambda peer: request(peer, ChangeState, 'change_state', ChangeState.Request(
        transition=Transition(id=Transition.TRANSITION_DEACTIVATE))),
    'thread': send_pair,
}


def wait_until_active(peer):
    """Return once the node listens to a camera."""
    peer.wait_for(lambda: peer.node.get_subscriptions_info_by_topic('/rgb/image_raw'), 'the node')


def wait_until_gone(peer):
    """Return once no other node knows of a publisher of fused images."""
    peer.wait_for(lambda: not peer.node.get_publishers_info_by_topic('/fused/image'), 'the end',
                  timeout_s=GONE_S)


@pytest.mark.parametrize('callback', CAUSES)
def test_uncaught_exception_ends_process(start_dying, peer, callback):
    """What a callback or the worker raises ends the process."""
    node = start_dying(callback)
    if callback != 'timer':  # that is dead before anybody sees it
        wait_until_active(peer)

    CAUSES[callback](peer)
    peer.wait_for(lambda: node.process.poll() is not None, 'the node to end')

    assert node.wait() == 1
    assert node.output.count('ZeroDivisionError: injected failure') == 1, node.output
    assert node.output.count('Traceback') == 1
    wait_until_gone(peer)


def test_hanging_network_still_fails(start_dying, peer):
    """A node whose network hangs fails like any other."""
    node = start_dying('service while a network hangs')
    send_pair(peer)
    peer.wait_for(lambda: HANGS in node.output, 'the network')

    CAUSES['service'](peer)
    peer.wait_for(lambda: node.process.poll() is not None, 'the node to end')

    assert node.wait() == 1
    assert node.output.count('ZeroDivisionError: injected failure') == 1, node.output
    wait_until_gone(peer)


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize('state', ['load', 'warm-up', 'warm-up that waits', 'network',
                                   'farewell'])
def test_signal_is_obeyed_in_time(start_dying, peer, state, number):
    """A signal is obeyed in time whatever the node does, and no shared memory is left.

    Also not where the node has no time to take its leave of the others, as on a busy machine.
    """
    node = start_dying(state)
    if state in ('network', 'farewell'):
        send_pair(peer)
    peer.wait_for(lambda: HANGS in node.output, 'the node to hang')
    made = shared_memory(node.process.pid)

    sent_s = time.monotonic()
    code = node.stop(number)
    took_s = time.monotonic() - sent_s

    assert code == 0, node.output
    assert took_s < OBEYED_S, node.output
    assert 'Traceback' not in node.output
    assert len(made) >= 2
    assert [file for file in made if file.exists()] == []
    if state != 'farewell':
        wait_until_gone(peer)


def test_loading_network_delays_no_end():
    """A loader that is closed does not wait for the network, and delivers it to nobody."""
    loads, triggered, delivered = threading.Event(), [], []
    node = SimpleNamespace(
        create_guard_condition=lambda _: SimpleNamespace(trigger=lambda: triggered.append(1)),
        destroy_guard_condition=lambda _: None)
    pipeline = SimpleNamespace(load=lambda _: loads.wait(20))
    loader = BackgroundLoader(node, pipeline, lambda *outcome: delivered.append(outcome))
    loader.request(None)

    begin_s = time.monotonic()
    loader.close()
    took_s = time.monotonic() - begin_s
    loads.set()

    assert took_s < OBEYED_S
    assert loader.wait(20) is None
    assert (triggered, delivered) == ([], [])


def test_killed_processes_are_replaced(domain, tmp_path, monkeypatch):
    """After SIGKILL pairs are fused again, what the recorder left opens, and nobody else ends.

    `make chaos` kills 200 times, at random.
    """
    pytest.importorskip('onnx', reason='onnx is not installed')
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / 'benchmarks')
    import chaos

    monkeypatch.setenv('PYTHONPATH', os.pathsep.join(chaos.MODULES), prepend=os.pathsep)
    victims = ('thermal', 'recorder', 'node')

    times, troubles = chaos.run(tmp_path, domain, victims, random.Random(8))

    assert troubles == []
    assert [len(times[victim]) for victim in victims] == [1, 1, 1]
    assert max(sum(times.values(), [])) <= chaos.BACK_S


def test_full_shared_memory_is_survived(dds):
    """Without room in /dev/shm all talk over UDP: pairs are fused, and again after a kill."""
    pytest.importorskip('onnx', reason='onnx is not installed')
    small = ['unshare', '-m', 'sh', '-c',
             'mount -t tmpfs -o size=512k tmpfs /dev/shm && exec "$@"', 'sh']
    if subprocess.run([*small, 'true'], capture_output=True).returncode:
        pytest.skip('mounting a file system needs root')
    script = Path(__file__).parents[2] / 'benchmarks' / 'chaos.py'

    with subprocess.Popen(
            [*small, sys.executable, script, '--kills', '1', '--seed', '4'], text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True) as process:
        try:
            output = process.communicate(timeout=CHAOS_S)[0]
        finally:
            with suppress(ProcessLookupError):  # nothing of the group is left
                os.killpg(process.pid, signal.SIGKILL)

    assert process.returncode == 0, output
    assert '1 kills; ' in output
