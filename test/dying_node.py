# SPDX-License-Identifier: Apache-2.0
"""The real node, with a part that fails or hangs: python -m dying_node FAULT [ROS arguments]."""

import hashlib
import sys
import threading

from diffmf_ros.inference import network
from diffmf_ros.inference.pipeline import FusionPipeline
from diffmf_ros.ros import fusion_node
from diffmf_ros.ros.frame_loop import FrameFuser
from diffmf_ros.ros.fusion_node import FusionNode
from diffmf_ros.ros.session import Session

HANGS = 'hangs from now on'


def fail(*args, **options):
    """Raise what nobody foresees."""
    raise ZeroDivisionError('injected failure')


def wait(*args, **options):
    """Never return, as what waits for a thread that hangs."""
    print(HANGS, flush=True)
    threading.Event().wait()


def compute(*args, **options):
    """Compute for minutes inside a library, where Python can handle no signal."""
    print(HANGS, flush=True)
    hashlib.pbkdf2_hmac('sha256', b'', b'', 2**31 - 1)


def lack(*args):
    """Fail as where a library is not installed."""
    raise network.LibraryMissing('diffmf nano', ModuleNotFoundError('gone', name='einops'))


FAULTS = {
    'library': {(network, 'make_engine'): lack},
    'timer': {(Session, '_report'): fail},
    'subscription': {(Session, '_on_frame'): fail},
    'service': {(FusionNode, '_on_enable'): fail},
    'parameter': {(FusionNode, '_apply'): fail},
    'transition': {(FusionNode, '_close_session'): fail},
    'thread': {(FrameFuser, '_finish'): fail},
    'service while a network hangs': {(FusionNode, '_on_enable'): fail,
                                      (FusionPipeline, 'begin'): compute},
    'network': {(FusionPipeline, 'begin'): compute},
    'load': {(FusionPipeline, '__init__'): compute},
    'warm-up': {(FusionPipeline, 'warm_up'): compute},
    'warm-up that waits': {(FusionPipeline, 'warm_up'): wait},
    'farewell': {(FusionPipeline, 'begin'): compute, (FusionNode, 'destroy_node'): wait},
}

if __name__ == '__main__':
    for (owner, name), replacement in FAULTS[sys.argv.pop(1)].items():
        setattr(owner, name, replacement)
    fusion_node.main()
