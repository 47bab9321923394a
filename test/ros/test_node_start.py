# SPDX-License-Identifier: Apache-2.0
"""What the log of a starting node says: where it listens, who publishes, and why no image comes.
"""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
from diagnostic_msgs.msg import DiagnosticArray
from sensor_msgs.msg import CameraInfo
from test_node_dds import values_of

from diffmf_ros.core.frames import RGB
from diffmf_ros.io.resources import FASTDDS_VARIABLES
from diffmf_ros.ros import camera_watch, parameters
from diffmf_ros.ros.qos import StreamTopics, profile

NODE = 'diffmf_ros.ros.fusion_node'


@pytest.fixture
def start_node(start):
    """Return start_node(*ros arguments) -> Child: a classical node."""
    return lambda *arguments: start(NODE, '--ros-args', '-p', 'model:=classical', *arguments)


@pytest.fixture
def start_camera(start, monkeypatch):
    """Return start_camera(topic, kind, reliability, size) -> Child: see camera_process."""
    monkeypatch.setenv('PYTHONPATH', str(Path(__file__).parents[1]), prepend=':')
    return lambda *arguments: start('camera_process', *arguments)


def test_log_names_topics_and_publishers(start_node, start_camera, peer):
    """The log says where the node listens and who publishes there."""
    start_camera('/camera/image_raw', 'Image', 'best_effort', '64x48')

    node = start_node('-r', 'rgb/image_raw:=/camera/image_raw', '-r', '__ns:=/front')

    for said in ('rgb: listening to /camera/image_raw (sensor_msgs/msg/Image)',
                 'thermal: listening to /front/thermal/image_raw (sensor_msgs/msg/Image)',
                 'active: classical on cpu',
                 'rgb: /camera/image_raw is published by /driver as sensor_msgs/msg/Image, '
                 'best_effort'):
        peer.wait_for(lambda said=said: said in node.output, said)
    assert 'deprecated' not in node.output


WHY_NONE = {
    'nobody': (['/thermal/image_raw/compressed', 'CompressedImage'], {},
               'no rgb images: nobody publishes /rgb/image_raw, nor any image that could be it: '
               'is the driver running, in ROS_DOMAIN_ID {domain}?'),
    'another name': (['/camera/image_raw', 'Image'], {},
                     'no rgb images: nobody publishes /rgb/image_raw; images are published on '
                     '/camera/image_raw: remap, as in rgb_image:=/camera/image_raw '
                     '(fusion.launch.py) or '
                     '-r rgb/image_raw:=/camera/image_raw'),
    'compressed only': (['/rgb/image_raw/compressed', 'CompressedImage'], {},
                        'no rgb images: nobody publishes /rgb/image_raw, but '
                        '/rgb/image_raw/compressed is published: '
                        'set input.rgb_transport to compressed'),
    'raw only': (['/rgb/image_raw', 'None'], {'input__rgb_transport': 'compressed'},
                 'no rgb images: nobody publishes /rgb/image_raw/compressed, but /rgb/image_raw '
                 'is published: set input.rgb_transport to raw'),
    'another type': (['/rgb/image_raw', 'CompressedImage'], {},
                     'no rgb images: /rgb/image_raw is published as '
                     'sensor_msgs/msg/CompressedImage, not as '
                     'sensor_msgs/msg/Image: set input.rgb_transport to compressed and remap '
                     'rgb/image_raw/compressed:=/rgb/image_raw'),
    'silent': (['/rgb/image_raw', 'None'], {},
               'no rgb images: /rgb/image_raw is published by /driver as sensor_msgs/msg/Image, '
               'reliable, but nothing has come for 0.5 s: does the camera send (ros2 topic hz '
               '/rgb/image_raw)?'),
    'quality of service': (['/rgb/image_raw', 'Image', 'best_effort', '64x48'],
                           {'qos__reliability': 'reliable'},
                           'no rgb images: /rgb/image_raw is published by /driver as '
                           'sensor_msgs/msg/Image, best_effort, which does not match in '
                           'reliability: set qos.reliability '
                           'to auto'),
}


@pytest.mark.parametrize('case', WHY_NONE)
def test_log_explains_missing_image(make_cameras, start_camera, peer, domain, monkeypatch, capfd,
                                    case):
    """When no image has come for a while the log says why."""
    # Given a node of this process that waits for half a second in place of three
    assert camera_watch.SILENT_S == 3.0, 'as docs/faq.md and docs/reliability.md say'
    monkeypatch.setattr(camera_watch, 'SILENT_S', 0.5)
    camera, overrides, said = WHY_NONE[case]
    said, logged = said.format(domain=domain), []
    if camera:
        start_camera(*camera, *('Image', 'reliable')[len(camera) - 1:])

    cameras = make_cameras(**{'qos__reliability': 'auto', **overrides})

    def log():
        logged.append(capfd.readouterr().err)
        return ''.join(logged)

    peer.wait_for(lambda: said in log() and 'no thermal images' in log(), said)
    peer.wait_for(lambda: said in cameras.message(), 'the same in the diagnostics')


def test_new_driver_is_given_time(monkeypatch):
    """Of a driver that comes late the log says that it sends nothing 3 s after that."""
    # Given a node that has waited for 10 s
    now_s, offers, said = [0.0], [], []
    monkeypatch.setattr(camera_watch.time, 'monotonic', lambda: now_s[0])
    log = SimpleNamespace(info=said.append, warning=said.append)
    node = SimpleNamespace(
        get_logger=lambda: log, resolve_topic_name=lambda name, **options: f'/{name}',
        get_topic_names_and_types=list, get_publishers_info_by_topic=lambda name: offers)
    watch = camera_watch.CameraWatch(node, RGB, StreamTopics('rgb/image_raw', '', ''), 'raw',
                                     incompatible=str)
    now_s[0] = 10.0
    watch.refresh()
    assert 'nobody publishes /rgb/image_raw' in watch.issue.text

    # when a driver starts
    offers.append(SimpleNamespace(
        node_name='driver', node_namespace='/', topic_type='sensor_msgs/msg/Image',
        qos_profile=profile('reliable', depth=1)))
    for now_s[0] in (10.5, 13.0):
        watch.refresh()
        assert watch.issue is None

    # then it has 3 s for its first image
    now_s[0] = 13.5
    watch.refresh()
    assert 'but nothing has come for 3 s' in watch.issue.text

    # and not again when it is started anew without having sent one
    driver = offers.pop()
    now_s[0] = 14.0
    watch.refresh()
    offers.append(driver)
    now_s[0] = 14.5
    watch.refresh()
    assert 'but nothing has come for 3 s' in watch.issue.text


def test_lost_frames_have_a_reason(start_node, start_camera, peer, monkeypatch):
    """Lost frames are reported with their reason."""
    # Given a driver as it comes: best effort, without the profile that large images need
    with monkeypatch.context() as as_it_comes:
        for variable in FASTDDS_VARIABLES:
            as_it_comes.delenv(variable, raising=False)
        start_camera('/rgb/image_raw', 'Image', 'best_effort')
    start_camera('/thermal/image_raw', 'Image', 'reliable', '64x48')

    node = start_node()
    # then the log explains it, whether some frames arrive or none
    advice = 'Fast DDS loses best-effort images over 512 KB'
    peer.wait_for(lambda: advice in node.output, 'the reason')
    line = next(line for line in node.output.splitlines() if advice in line)
    assert 'rgb' in line and '/driver as sensor_msgs/msg/Image, best_effort' in line
    assert 'start the driver with FASTDDS_DEFAULT_PROFILES_FILE=/' in line or 'FASTRTPS' in line


def test_missing_clock_is_said(start_node, peer):
    """Simulated time without a clock is said."""
    node = start_node('-p', 'use_sim_time:=true')
    said = 'use_sim_time is true, but /clock has not come for 3 s'
    peer.wait_for(lambda: said in node.output, said)


def test_second_node_is_said(start_node, peer):
    """Two nodes that publish on one topic are said, one in another namespace is not."""
    first, apart = start_node('-r', '__node:=first'), start_node('-r', '__ns:=/rear')
    peer.wait_for(lambda: 'active: ' in first.output + apart.output, 'the first node')
    second = start_node('-r', '__node:=second')

    peer.wait_for(lambda: '/fused/image is published by /second as well' in first.output
                  and '/fused/image is published by /first as well' in second.output,
                  'the warnings')
    assert 'as well' not in apart.output


@pytest.mark.parametrize('latched', [True, False])
def test_sibling_calibration_arrives(start_node, start_camera, peer, latched):
    """The calibration beside the image topic arrives."""
    # Given a driver that sends its calibration with the images, or once and latched before the
    # node starts
    info = CameraInfo(width=64, height=48, k=[50.0, 0.0, 32.0, 0.0, 50.0, 24.0, 0.0, 0.0, 1.0])
    publisher = peer.node.create_publisher(
        CameraInfo, '/camera/camera_info', profile('reliable', depth=1, latched=latched))
    publisher.publish(info)
    if not latched:
        peer.node.create_timer(0.1, lambda: publisher.publish(info))
    infos = peer.collect(CameraInfo, '/fused/camera_info')

    # when only the images are remapped
    start_node('-r', 'rgb/image_raw:=/camera/image_raw')
    start_camera('/camera/image_raw', 'Image', 'reliable', '64x48')

    # then the fused images are calibrated
    peer.wait_for(lambda: infos and infos[-1].k[0] == 50.0, 'the calibration')


def test_rgb_rate_beside_slower_thermal(start_node, start_camera, peer):
    """Every RGB frame leaves beside a slower thermal camera."""
    reports = peer.collect(DiagnosticArray, '/diagnostics')
    states = peer.collect(DiagnosticArray, '/fused/status')
    start_camera('/rgb/image_raw', 'Image', 'reliable', '64x48', 30)
    start_camera('/thermal/image_raw', 'Image', 'reliable', '32x24', 9)

    node = start_node()

    def rates():
        values = values_of(reports[-1]) if reports else {}
        return [float(values.get(f'rate_{name}_hz', 'nan')) for name in ('out', 'rgb', 'thermal')]

    def held():
        """What the images say since thermal was held for the first time."""
        said = [values_of(state)['held'] for state in states]
        return set(said[said.index('true'):]) if 'true' in said else set()

    note = 'are fused with the last thermal frame, up to 1'
    # Beside other tests a camera may stumble, which ends the hold for a while: wait for each.
    peer.wait_for(lambda: rates()[0] > 0.8 * rates()[1] > 2 * rates()[2],
                  'the rate of the RGB camera')
    peer.wait_for(lambda: any(note in values_of(report)['notes'] for report in reports), note)
    peer.wait_for(lambda: held() == {'true', 'false'}, 'new thermal frames between held ones')
    peer.wait_for(lambda: 'thermal comes at ' in node.output, 'the same in the log')


def test_proposed_clock_offset_fuses(start_node, start_camera, peer):
    """Clocks that differ by a constant are fused with the offset that the log proposes."""
    start_camera('/rgb/image_raw', 'Image', 'reliable', '64x48')
    start_camera('/thermal/image_raw', 'Image', 'reliable', '32x24', 30, 37)
    node = start_node('-r', '__node:=first')
    said = 'sync.thermal_offset_ms: '
    peer.wait_for(lambda: said in node.output, 'the proposal')

    proposed_ms = float(node.output.partition(said)[2].partition(' ')[0])
    assert proposed_ms == pytest.approx(-37000, abs=100)
    assert node.stop() == 0
    states = peer.collect(DiagnosticArray, '/fused/status')
    start_node('-r', '__node:=second', '-p', f'sync.thermal_offset_ms:={proposed_ms}')

    peer.wait_for(lambda: states and values_of(states[-1])['mode'] == 'CLASSICAL', 'fused images')


def test_rectified_topic_doubts_raw_calibration(start_node, start_camera, peer):
    """A topic that is rectified by its name raises a doubt of a raw calibration."""
    info = CameraInfo(width=64, height=48, k=[50.0, 0.0, 32.0, 0.0, 50.0, 24.0, 0.0, 0.0, 1.0],
                      distortion_model='plumb_bob', d=[-0.3, 0.1, 0.0, 0.0, 0.0],
                      p=[40.0, 0.0, 31.0, 0.0, 0.0, 40.0, 23.0, 0.0, 0.0, 0.0, 1.0, 0.0])
    publisher = peer.node.create_publisher(CameraInfo, '/camera/camera_info',
                                           profile('reliable', depth=1, latched=True))
    publisher.publish(info)
    infos = peer.collect(CameraInfo, '/fused/camera_info')
    start_camera('/camera/image_rect', 'Image', 'reliable', '64x48')
    remapped = ('-r', 'rgb/image_raw:=/camera/image_rect')

    node = start_node(*remapped)
    doubt = ('/camera/image_rect looks rectified by its name, but its camera info describes a '
             'lens with distortion')
    peer.wait_for(lambda: doubt in node.output, 'the doubt')
    node.stop()

    node = start_node(*remapped, '-p', 'alignment.rgb_rectified:=true')
    peer.wait_for(lambda: infos and infos[-1].k[0] == 40.0,
                  'the calibration of the rectified image')
    assert not any(infos[-1].d) and doubt not in node.output


@pytest.mark.parametrize('word, code, said', [
    ('--help', 0, '--ros-args -p model:=classical'),
    ('modle', 2, 'error: unrecognized arguments: modle'),
])
def test_help_starts_no_node(start, word, code, said):
    """Words that are not for ROS: help is printed, others are refused."""
    child = start(NODE, word)

    assert child.wait() == code and said in child.output
    assert 'configured' not in child.output


def test_unread_parameters_get_suggestion(start, peer, tmp_path):
    """Parameters that nothing reads are named with the one that was meant."""
    for name, content in {'keys.yaml': '/**:\n  ros__parameters:\n    model: classical\n'
                                       '    sync: {max_distance: 3.0}\n',
                          'node.yaml': 'fusion:\n  ros__parameters:\n    output.color: '
                          'gray\n'}.items():
        (tmp_path / name).write_text(content)

    node = start(NODE, '--ros-args', '--params-file', tmp_path / 'keys.yaml', '--params-file',
                 tmp_path / 'node.yaml', '-p', 'modell:=classical')

    for said in ('unknown parameter modell, did you mean model?',
                 'unknown parameter sync.max_distance, did you mean sync.max_distance_ms?',
                 f'nothing of {tmp_path / "node.yaml"} is used: its parameters are for /fusion, '
                 f'and this node is '
                 '/fusion_node (/** means every node)', 'active: classical on cpu'):
        peer.wait_for(lambda said=said: said in node.output, said)
    assert 'keys.yaml is used' not in node.output


@pytest.mark.parametrize('module, arguments, said', [
    ((NODE,), ('--log-level', 'verbose'), "cannot start: Failed to parse ROS arguments: "
     "Couldn't parse log level: '--log-level verbose'"),
    ((NODE,), ('--params-file', '/nowhere/a.yaml'), "cannot start: Failed to parse ROS arguments: "
     "Couldn't parse params file: '--params-file /nowhere/a.yaml'"),
    (('diffmf_ros.ros.recorder', 'bag', '/a'), ('--log-level', 'verbose'),
     "Failed to parse ROS arguments: Couldn't parse log level: '--log-level verbose'"),
])
def test_bad_ros_arguments_one_sentence(start, domain, module, arguments, said):
    """ROS arguments that cannot be read are one sentence."""
    node = start(*module, '--ros-args', *arguments)

    assert node.wait() == 1
    assert said in node.output
    assert 'Traceback' not in node.output and '/project/' not in node.output.partition(said)[2]


@pytest.mark.parametrize('module, said', [((NODE,), 'cannot start: '),
                                          (('diffmf_ros.ros.recorder', 'bag', '/a'), '')])
def test_domain_without_ports_is_named(start, domain, monkeypatch, module, said):
    """The number of a domain that has no ports is one sentence; Fast DDS would end the process."""
    monkeypatch.setenv('ROS_DOMAIN_ID', '233')
    node = start(*module)

    assert node.wait() == 1
    assert f'{said}ROS_DOMAIN_ID=233: the numbers of domains are 0 to 232' in node.output
    assert len(node.output.strip().splitlines()) == 1


def test_node_is_pinned_and_locked(start_node, peer):
    """The node runs on the CPUs that it may use, all its threads, and its memory is locked."""
    cpu = min(os.sched_getaffinity(0))

    node = start_node('-p', f"realtime.cpu_affinity:='{cpu}'", '-p', 'realtime.lock_memory:=true')
    peer.wait_for(lambda: 'active: ' in node.output, 'the node')

    threads = [dict(line.split(':\t', 1) for line in (thread / 'status').read_text().splitlines())
               for thread in Path(f'/proc/{node.process.pid}/task').iterdir()]
    assert {status['Cpus_allowed_list'] for status in threads} == {str(cpu)}
    refused = 'realtime.lock_memory: ' in node.output
    assert refused == (int(threads[0]['VmLck'].split()[0]) == 0)


@pytest.mark.parametrize('module, arguments', [
    (NODE, ()), ('diffmf_ros.ros.recorder', ('bag', '/a')), ('diffmf_ros.tools.view.viewer', ())])
def test_no_start_without_asked_security(start, domain, monkeypatch, tmp_path, module, arguments):
    """Under SROS 2 nothing starts unsecured: keys that are none, or a middleware without security,
    are one sentence."""
    keys = tmp_path / 'keys'
    (keys / 'enclaves').mkdir(parents=True)
    for name in ('identity_ca.cert.pem', 'permissions_ca.cert.pem', 'cert.pem', 'key.pem',
                 'governance.p7s', 'permissions.p7s'):
        (keys / 'enclaves' / name).write_text('no key')
    for name, value in (('ENABLE', 'true'), ('STRATEGY', 'Enforce'), ('KEYSTORE', str(keys))):
        monkeypatch.setenv(f'ROS_SECURITY_{name}', value)
    monkeypatch.chdir(tmp_path)

    child = start(module, *arguments)

    assert child.wait() in (1, 2)
    assert 'error creating node: ' in child.output and 'ecurity' in child.output
    assert 'Traceback' not in child.output


@pytest.mark.parametrize('pattern, name, means', [
    ('/**', '/a/fusion_node', True), ('/fusion_node', '/fusion_node', True),
    ('/fusion_node', '/a/fusion_node', False),
    ('/*/fusion_node', '/a/fusion_node', True), ('/*/fusion_node', '/fusion_node', False),
    ('/**/fusion_node', '/a/b/fusion_node', True), ('/fusion', '/fusion_node', False)])
def test_params_file_names_like_rcl(pattern, name, means):
    """A name of a params file means a node as in rcl."""
    assert parameters._means(pattern, name) is means
