# SPDX-License-Identifier: Apache-2.0
"""The recorder as its own process: topics that it cannot record, and what it says of them."""

from argparse import Namespace

import pytest
from std_msgs.msg import String

from diffmf_ros.core.frames import DiffmfError
from diffmf_ros.io.bags import BagError, BagReader
from diffmf_ros.ros import recorder
from diffmf_ros.ros.qos import profile

RECORDER = 'diffmf_ros.ros.recorder'


@pytest.mark.parametrize('topic', ['a/b/', 'bad topic', '', '/x//y', '/a\udcff', '/{node}/a',
                                   'a' * 300])
def test_wrong_topic_name_is_refused(tmp_path, topic):
    """A name that no topic can have is refused before anything is made."""
    options = Namespace(bag=tmp_path / 'bag', storage='sqlite3', overwrite=False, topics=[topic])

    with pytest.raises(DiffmfError, match='^expected the name of a topic, .* got ') as error:
        recorder.record(options, None)

    assert repr(topic[:247]) in str(error.value)
    assert list(tmp_path.iterdir()) == []


def counts(bag):
    """Return the messages of each topic of a bag, which may be in work; {} for none."""
    try:
        with BagReader(bag) as reader:
            return {topic: info.count for topic, info in reader.topics.items() if info.count}
    except BagError:
        return {}


@pytest.fixture
def point(tmp_path, monkeypatch):
    """The type of a message whose package child processes lack."""
    broken = tmp_path / 'lacking' / 'geometry_msgs'
    broken.mkdir(parents=True)
    (broken / '__init__.py').write_text('raise ImportError("not here")\n')
    monkeypatch.setenv('PYTHONPATH', str(broken.parent), prepend=':')
    from geometry_msgs.msg import Point
    return Point


def test_unrecorded_topics_are_named(start, peer, tmp_path, point):
    """A topic of another package's type and one that nobody publishes are said, the rest is kept.
    """
    # Given a topic, and a recorder of three
    best = profile('reliable', depth=10)
    text = peer.node.create_publisher(String, '/text', best)
    # of which one has a subscriber alone
    peer.collect(String, '/nobody')
    child = start(RECORDER, tmp_path / 'bag', '/text', '/point', '/nobody')
    peer.wait_for(lambda: 'recording /text' in child.output, 'the subscription')

    # When its topic comes later than the others
    peer.node.create_publisher(point, '/point', best)
    for said in ('/point is not recorded: message type geometry_msgs/msg/Point',
                 'nobody publishes /nobody'):
        peer.wait_for(lambda said=said: said in child.output, said)
    text.publish(String(data='still recorded'))
    peer.wait_for(lambda: counts(tmp_path / 'bag.unfinished' / 'bag'), 'the message in the bag')

    # Then the others are recorded, and the end says what was not.
    assert child.stop() == 0, child.output
    said = child.output.partition('not recorded: ')[2]
    assert '/nobody (nobody published it)' in said and '/point (message type' in said
    assert 'recorded 1 /text' in said and 'Traceback' not in child.output
    assert counts(tmp_path / 'bag') == {'/text': 1}


def test_unknown_type_alone_ends_it(start, peer, tmp_path, point):
    """Without another topic to record there is nothing to wait for."""
    peer.node.create_publisher(point, '/point', profile('reliable', depth=10))
    child = start(RECORDER, tmp_path / 'bag', '/point')

    assert child.wait() == 1
    assert 'message type geometry_msgs/msg/Point is not available here' in child.output
    assert 'Traceback' not in child.output and not (tmp_path / 'bag').exists()
