# SPDX-License-Identifier: Apache-2.0
"""Launches of a network under torch.compile, beside those of its own kernels; without a GPU.

    python benchmarks/compile_plan.py MODEL/PRESET [--beside]

The network is traced without values at 640x480, float16, and given to inductor's scheduler, which
decides by its rules for a CPU what becomes one kernel; its rules for a GPU can be asked only on a
GPU. Scans stay operations of this package: inductor would loop over the tokens. With --beside all
its fused steps stay too, and inductor gets what is left. Nothing is compiled or run.
"""

import argparse
from collections import Counter

import torch
from torch._inductor.debug import DebugContext
from torch._inductor.decomposition import select_decomp_table
from torch._inductor.fx_passes.post_grad import view_to_reshape
from torch._inductor.graph import GraphLowering
from torch._inductor.virtualized import V
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.passes.fake_tensor_prop import FakeTensorProp
from torch.utils._pytree import tree_leaves

from diffmf_ros import models
from diffmf_ros.inference.engine import use_backend
from diffmf_ros.models import fused
from diffmf_ros.models.kernels import meta_stands_for_cuda
from diffmf_ros.tools.bench import plan

SCANS = 'ss2d', 'ssd', 'selective_scan', 'interleaved_ss2d'
# Launches of an operation of this package, where they are several.
LAUNCHES = {'ss2d': 4, 'ssd': 3, 'selective_scan': 3, 'seen': 4, 'mix': 2}
LOOPS = 'SchedulerNode', 'FusedSchedulerNode', 'OuterLoopFusedSchedulerNode'


def traced(network: torch.nn.Module):
    """Return the graph of a network on the meta device, and the tensors that it takes."""
    inputs = dict(network.named_parameters()) | dict(network.named_buffers()), *(
        torch.empty(1, 1, 480, 640, device='meta') for _ in range(2))
    with torch.no_grad(), meta_stands_for_cuda():
        graph = make_fx(lambda values, ir, y: functional_call(network, values, (ir, y)),
                        decomposition_table=select_decomp_table())(*inputs)
    return graph, tree_leaves(inputs)


def scheduled(graph, inputs) -> Counter:
    """Return what inductor would launch: its own loops, and calls by name."""
    mode = FakeTensorMode()

    def on_cpu(tensor):
        return torch.empty_strided(tensor.size(), tensor.stride(), dtype=tensor.dtype)

    with mode:
        inputs = [on_cpu(tensor) for tensor in inputs]
        for name, value in list(vars(graph).items()) + list(graph.named_buffers()):
            if isinstance(value, torch.Tensor):
                setattr(graph, name, on_cpu(value))
    for node in graph.graph.nodes:
        node.meta = {}
        if 'device' in node.kwargs:
            node.kwargs = {**node.kwargs, 'device': torch.device('cpu')}
    graph.recompile()
    with V.set_fake_mode(mode):
        FakeTensorProp(graph, mode=mode).propagate(*inputs)
        view_to_reshape(graph)
        FakeTensorProp(graph, mode=mode).propagate(*inputs)
        lowering = GraphLowering(graph, example_inputs=inputs, is_inference=True)
        with V.set_graph_handler(lowering), V.set_debug_handler(DebugContext()):
            lowering.run(*inputs)
            lowering._update_scheduler()
    found: Counter = Counter()
    for node in lowering.scheduler.nodes:
        if type(node).__name__ in LOOPS:
            found['loops of inductor'] += 1
        elif node.is_extern() and (name := getattr(node.node, 'python_kernel_name', None)):
            short = name.rpartition('.default')[0] or name
            found[short.rpartition('.')[2]] += LAUNCHES.get(short.rpartition('.')[2], 1)
    return found


def main() -> None:
    """Print both counts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('network', help='MODEL/PRESET')
    parser.add_argument('--beside', action='store_true', help='keep the fused steps')
    options = parser.parse_args()
    name, preset = options.network.split('/')
    with torch.device('meta'):
        network = models.build(name, preset)
    plan.prepare(network, precision='float16', scan_backend='triton')
    if not options.beside:
        use_backend(network, dict.fromkeys(SCANS, 'triton')
                    | dict.fromkeys((*fused.OPERATIONS, 'rates', 'interleave'), 'portable'))
    found = scheduled(*traced(network))
    own = plan.plan_pair(name, preset).kernels
    print(f'{options.network}: {len(own)} launches of a pair now, '
          f'{sum(found.values())} of the network alone under torch.compile')
    for kind, launches in found.most_common():
        print(f'{launches:5d} {kind}')


if __name__ == '__main__':
    main()
