# SPDX-License-Identifier: Apache-2.0
"""The training loop: resumable at any iteration, on a CPU, a GPU, or several of either.

Its steps become one CUDA graph: a step of some 1,400 small kernels takes longer to launch than to
compute.
"""

import math
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ... import models
from ...inference.memory import keep_freed_memory
from ...inference.weights import load_into, load_weights, save_weights
from ...io.folders import pair_files, read_pair
from ...io.writing import replacing
from .config import TrainConfig
from .data import Batch, CropSampler, batches_on
from .distributed import Processes, Stop, StopRequests, device_of, joined_processes
from .gradient_check import checked_network
from .log import Log, fingerprint, plot_log, read_checkpoint, write_checkpoint
from .losses import Perception, fusion_loss, load_resnet50
from .precision import TrainingError, loss_scaler

# Steps before the capture: kernels are compiled and tuned, and the optimizer makes its state.
WARM_UPS = 3

Step = Callable[[Batch], torch.Tensor]
Replay = Callable[[], torch.Tensor]


def capture_cuda(step: Replay) -> Replay:
    """Capture a step, which is not carried out meanwhile, as a CUDA graph.

    Args:
        step: Computes on tensors that stay where they are, and waits for nothing.

    Returns:
        A function that carries the step out and returns the tensor that it returned, which is
        overwritten by the next call.

    Raises:
        RuntimeError: The step cannot be captured.
    """
    stream, graph = torch.cuda.current_stream(), torch.cuda.CUDAGraph()
    try:
        # Other threads of this process, such as those that pin memory, do not end the capture.
        with torch.cuda.graph(graph, capture_error_mode='thread_local'):
            result = step()
    except RuntimeError:
        torch.cuda.set_stream(stream)  # a capture that fails at its end leaves its own behind
        raise

    def replay() -> torch.Tensor:
        graph.replay()
        return result

    return replay


class StepGraph:
    """A training step that is launched at once, after WARM_UPS steps that are not.

    `problem` says why there is no graph: then every kernel is launched by itself. Empty: none.
    """

    def __init__(self, step: Step, *, capture: Callable[[Replay], Replay] = capture_cuda):
        """Keep the step.

        Args:
            step: Trains on a batch, always of the same shapes; returns a tensor.
            capture: Makes the graph.
        """
        self.problem = ''
        self._step, self._capture = step, capture
        self._steps = 0
        self._batch: Batch | None = None
        self._replay: Replay | None = None

    def __call__(self, batch: Batch) -> torch.Tensor:
        """Train on a batch of tensors; return what the step returns.

        The next call may overwrite it.
        """
        self._steps += 1
        if self.problem:
            return self._step(batch)
        if self._steps <= WARM_UPS:
            return _on_side_stream(self._step, batch)
        if self._batch is None:
            self._batch = batch.mapped(torch.clone)
            try:
                self._replay = self._capture(partial(self._step, self._batch))
            except RuntimeError as error:
                self.problem = ('no CUDA graph could be captured of a training step, every kernel '
                                f'is launched by itself: {error}')
                return self._step(batch)
        else:
            self._batch.copy_(batch)
        return self._replay()  # type: ignore[misc]


def _on_side_stream(step: Step, batch: Batch) -> torch.Tensor:
    """Return step(batch), on another stream than the default one, which cannot be captured."""
    if not batch.ir.is_cuda:  # type: ignore[attr-defined]  # a batch of tensors
        return step(batch)
    main, side = torch.cuda.current_stream(), torch.cuda.Stream()
    side.wait_stream(main)
    with torch.cuda.stream(side):
        result = step(batch)
    main.wait_stream(side)
    return result


SMALLEST_LOSS_SCALE = 1.0  # a gradient that still overflows here is not finite for another reason


@dataclass(frozen=True)
class Outcome:
    """How far a run came, why not to the last iteration, and the averaged weights it wrote either
    way."""

    iteration: int
    stop: Stop
    weights: Path
    warnings: tuple[str, ...] = ()


def learning_rate(config: TrainConfig, iteration: int) -> float:
    """Linear warm-up, then half a cosine to zero at the last iteration."""
    if iteration < config.warmup:
        return config.learning_rate * (iteration + 1) / config.warmup
    progress = (iteration - config.warmup) / max(1, config.iterations - config.warmup)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))


class Trainer:
    """Network, running average of its weights, optimizer, and the iteration they are at.

    `problems` are sentences about kernels of this machine that the training cannot use.

    Raises TrainingError for a batch, device or precision that cannot be had here.
    """

    def __init__(self, config: TrainConfig, processes: Processes | None = None):
        torch.manual_seed(config.seed)
        self.processes = processes or Processes(device_of(config.device))
        self.config, self.iteration, self.device = config, 0, self.processes.device
        self._own = self.processes.share(config.batch)
        self.network = models.build(config.model, config.preset).to(self.device)
        if config.start:
            _start_from(config.start, self.network, config)
        self.average = {k: v.detach().clone() for k, v in self.network.state_dict().items()}
        self.scaler = loss_scaler(config.precision, self.device)
        # Several processes wait for each other in a step, and a scaler for the device.
        self.graph = StepGraph(self._compute) if (
            self.device.type == 'cuda' and self.processes.count == 1
            and not self.scaler.is_enabled()) else None
        self._adam: dict[str, Any] = {'fused': self.device.type == 'cuda',
                                      'capturable': self.graph is not None}
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=config.learning_rate,
                                          **self._adam)
        self._rate = torch.zeros((), device=self.device)
        self._names: tuple[str, ...] = ()
        if (fitting := self.network.sides.padded(config.crop)) != config.crop:
            raise TrainingError(f'{config.model} {config.preset} takes crops of '
                                f'{self.network.sides} pixels, '
                                f'not {config.crop}: use {fitting}')
        if config.loss.share and not self.network.mixing:
            raise TrainingError(f'{config.model} {config.preset} does not mix its sources: loss '
                                f'share has nothing to '
                                'teach, set it to 0')
        self._perception = None
        if config.perception:
            self._perception = Perception(load_resnet50(config.perception).to(self.device),
                                          temperature=config.loss.temperature)
        self._teacher = _teacher(config.teacher, self.device) if config.teacher else None
        fuse, self.problems = checked_network(self.network, config.precision, self.processes)
        self._fuse = self.processes.parallel(fuse)

    def step(self, batch: Batch) -> dict[str, float]:
        """Train on one batch of tensors, the same in every process; return the terms of the loss.

        Raises TrainingError when the gradient is not finite, in all processes alike.
        """
        rate = learning_rate(self.config, self.iteration)
        self._set_rate(rate)
        may_overflow = self.scaler.is_enabled() and self.scaler.get_scale() > SMALLEST_LOSS_SCALE
        values = (self.graph or self._compute)(batch)
        self._update_average()
        self.iteration += 1
        scale = {'loss_scale': self.scaler.get_scale()} if self.scaler.is_enabled() else {}
        found = dict(zip(self._names, values.tolist()))  # the one wait for the device
        if not math.isfinite(found['gradient_norm']) and not may_overflow:
            raise TrainingError(f'non-finite gradient at iteration {self.iteration}: lower '
                                'learning_rate, or lengthen warmup, and start anew in another '
                                'folder (--out)')
        return {**found, **scale, 'learning_rate': rate}

    def _set_rate(self, rate: float) -> None:
        """Set the learning rate: a tensor, which can change behind a graph, or a number."""
        self._rate.fill_(rate)
        for group in self.optimizer.param_groups:
            group['lr'] = self._rate if self.graph else rate

    def _compute(self, batch: Batch) -> torch.Tensor:
        """Descend by the loss of a batch; return the terms and the gradient's norm, as _names."""
        ir, vi_y = batch.ir, batch.vi_y
        fused, share = map(self.processes.whole,
                           self._fuse(ir[self._own], vi_y[self._own], with_share=True))
        terms = fusion_loss(fused, ir, vi_y, self.config.loss, batch=batch, share=share,
                            taught=self._taught(ir, vi_y), perception=self._perception)
        norm = self._descend(terms['total'])
        self._names = *terms, 'gradient_norm'
        return torch.stack([value.detach().float() for value in (*terms.values(), norm)])

    @torch.no_grad()
    def _taught(self, ir, vi_y):
        if self._teacher is None:
            return None
        return self.processes.whole(self._teacher(ir[self._own], vi_y[self._own]))

    def _descend(self, loss):
        """Change the weights by the gradient of loss, clipped, and return its norm before that."""
        self.optimizer.zero_grad(set_to_none=True)
        # The mean over the processes is taken of gradients, each of which is that of its own
        # images alone.
        self.scaler.scale(loss * self.processes.count).backward()
        self.scaler.unscale_(self.optimizer)
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.config.clip)
        # leaves the weights alone where scaling made the gradient overflow
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return norm

    def _update_average(self):
        # A young average would be dominated by the random start: let it move faster at first.
        keep = min(self.config.ema, (1 + self.iteration) / (10 + self.iteration))
        torch._foreach_lerp_(list(self.average.values()),
                             list(self.network.state_dict().values()), 1 - keep)

    def state(self) -> dict:
        """Return everything that a resumed training needs."""
        return {'network': self.network.state_dict(), 'average': self.average,
                'iteration': self.iteration, 'optimizer': self.optimizer.state_dict(),
                'scaler': self.scaler.state_dict()}

    def restore(self, state: dict) -> None:
        """Continue exactly where state was taken."""
        self.network.load_state_dict(state['network'])
        for group in state['optimizer']['param_groups']:  # as this device, not that of the state
            group.update(self._adam)
        self.optimizer.load_state_dict(state['optimizer'])
        self.scaler.load_state_dict(state['scaler'])
        self.average = {name: value.to(self.device) for name, value in state['average'].items()}
        self.iteration = state['iteration']


def _start_from(path: str, network: torch.nn.Module, config: TrainConfig) -> None:
    """Load weights into network. Raises TrainingError for those of another network or preset."""
    weights = load_weights(path)
    if (weights.model, weights.preset) != (config.model, config.preset):
        raise TrainingError(f'start: {path} holds {weights.model} {weights.preset}, this training '
                            f'is of {config.model} {config.preset}')
    load_into(network, weights)


def _teacher(path: str, device) -> torch.nn.Module:
    """Return the network of a weights file, frozen."""
    weights = load_weights(path)
    network = models.build(weights.model, weights.preset)
    load_into(network, weights)
    return network.to(device).requires_grad_(False)


def train(config: TrainConfig, report: Callable[[int, dict[str, float]], None], *,
          minutes: float = math.inf, problem: Callable[[str], None] = print) -> Outcome:
    """Train, resuming from the checkpoint in config.out when there is one.

    report(iteration, terms) is called in the first process after every iteration; problem(text)
    there before the first one, for each kernel that gives wrong gradients in any process. The run
    ends early, with a checkpoint and its weights, after `minutes`, or for SIGINT or SIGTERM.
    Raises FolderError and DataError for data that cannot be used, and TrainingError when the
    training cannot start, resume or go on as asked.
    """
    keep_freed_memory()
    if config.threads:
        torch.set_num_threads(config.threads)
    with StopRequests(minutes) as requests, joined_processes(config.device) as processes:
        trainer = Trainer(config, processes)
        for text in trainer.problems if processes.first else ():
            problem(text)
        pairs = [read_pair(*files) for files in pair_files(config.data)]
        sampler = CropSampler(pairs, crop=config.crop, batch=config.batch, seed=config.seed,
                              degradations=config.degradations)
        books = _RunFiles(trainer, data=fingerprint(pairs), report=report)
        books.resume()
        stop = Stop.NO
        with closing(batches_on(processes.device, sampler, first=trainer.iteration,
                                end=config.iterations, processes=processes.count)) as batches:
            for batch in batches:
                graph = trainer.graph
                had_problem = graph is not None and graph.problem
                books.add(trainer.step(batch))
                if graph is not None and graph.problem and not had_problem:
                    problem(graph.problem)
                stop = Stop(processes.largest(requests.current))
                if stop:
                    break
        return books.close(stop if trainer.iteration < config.iterations else Stop.NO)


class _RunFiles:
    """The files of a training, which the first process writes: checkpoint, log, plot, weights."""

    def __init__(self, trainer: Trainer, *, data: str, report):
        self._trainer, self._data, self._report = trainer, data, report
        self._out, self._saved = Path(trainer.config.out), time.monotonic()
        self._warnings: dict = {}
        self._out.mkdir(parents=True, exist_ok=True)
        self._checkpoint = self._out / 'checkpoint.pt'
        self._log: Log | None = None

    def resume(self) -> None:
        """Bring the trainer, in every process, to the checkpoint if there is one."""
        trainer = self._trainer
        if self._checkpoint.exists():
            trainer.restore(read_checkpoint(self._checkpoint, trainer.config, data=self._data))
        if trainer.processes.first:
            self._log = Log(self._out / 'log.csv', trainer.iteration)

    def add(self, terms: dict[str, float]) -> None:
        """Note an iteration; save when it is time."""
        if self._log is None:
            return
        self._log.add(self._trainer.iteration, terms)
        self._report(self._trainer.iteration, terms)
        if time.monotonic() - self._saved > 60 * self._trainer.config.checkpoint_minutes:
            self._save()

    def _save(self) -> None:
        write_checkpoint(self._checkpoint, self._trainer.state(), self._trainer.config,
                         data=self._data)
        if warning := plot_log(self._out / 'log.csv', self._out / 'loss.png'):
            self._warnings[warning] = None
        self._saved = time.monotonic()

    def close(self, stop: Stop) -> Outcome:
        """Save a last time and export the weights."""
        trainer, config = self._trainer, self._trainer.config
        iteration, tensors = trainer.iteration, trainer.average
        weights = self._out / f'{config.model}_{config.preset}.safetensors'
        if self._log is not None:
            self._save()
            with replacing(weights) as partial:
                save_weights(partial, tensors, model=config.model, preset=config.preset,
                             iterations=iteration, seed=config.seed)
        return Outcome(iteration, stop, weights, tuple(self._warnings))
