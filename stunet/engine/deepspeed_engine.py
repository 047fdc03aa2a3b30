"""DeepSpeed behind one small class; the only file that imports it.

One path for every scale: ZeRO 0 on one process up to ZeRO 3 on many. Weights are fp32 at every
stage (bf16 is autocast), so the module's own parameters are always the truth. Not here: files,
data, logging.

Written against DeepSpeed 0.19.8; what it relies on beyond the public interface is said beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from stunet.engine import distributed
from stunet.engine.broadcast import from_main
from stunet.engine.ema import SharedOutWeights, decay_at, whole_shape
from stunet.engine.optim import (
    OptimConfig,
    ParameterGroup,
    Update,
    build_optimizer,
    clip_gradients,
    create_state,
    learning_rate,
    set_learning_rate,
    state_keys,
)
from stunet.engine.parallel import ParallelConfig, accumulation_steps, deepspeed_config
from stunet.engine.quiet import filter_log, filter_warnings
from stunet.errors import ConfigError

filter_log()

import deepspeed  # noqa: E402 - its import already logs
from deepspeed import utils as fragments  # noqa: E402


def _skip_shared_memory_op() -> None:
    """Keep DeepSpeed from compiling a CPU op that only inference uses.

    It would need a compiler and a minute, and a compile that was killed leaves a lock on which
    every later run waits for ever. There is no switch for it; the table is private.
    """
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def _forget_ended_groups() -> None:
    """Let a process train again that left its group; DeepSpeed keeps more. Names are private."""
    kept = fragments.groups._WORLD_GROUP
    try:
        dist.get_process_group_ranks(kept)  # of None: those of all
    except KeyError:
        fragments.groups._release_process_group_references()


def _check_nvme() -> None:
    """Fail at once where DeepSpeed would fail while it compiles, with pages of a compiler's words.

    Raises:
        ConfigError: The library that reads and writes files in the background is missing.
    """
    if not deepspeed.ops.__compatible_ops__["async_io"]:
        raise ConfigError(
            "parallel.offload nvme: needs libaio and a C++ compiler, which are not here; install "
            "libaio-dev and g++, or set parallel.offload=cpu"
        )


class TrainEngine:
    """A model, its optimiser and its place among the ranks.

    Attributes:
        device: Where this rank computes.
        zero_stage: The ZeRO stage in use.
        accumulation: Micro-batches per optimiser step.
        global_batch: Patches per optimiser step over all ranks.
        total_steps: Length of the run.
        steps_done: Optimiser steps taken since the run began; `load_optimizer` sets it.
        config: What DeepSpeed was given.
    """

    def __init__(
        self, wrapped: Any, optimizer: torch.optim.Optimizer, optim: OptimConfig, global_batch: int
    ) -> None:
        self._wrapped = wrapped
        self._optimizer = optimizer
        self._optim = optim
        self.global_batch = global_batch
        self.device: torch.device = wrapped.device
        self.zero_stage: int = wrapped.zero_optimization_stage()
        self.accumulation: int = wrapped.gradient_accumulation_steps()
        self.total_steps = optim.total_steps
        self.config: dict[str, Any] = wrapped.config
        self.steps_done = 0
        self._moments = _Moments(wrapped, optimizer, state_keys(optim))
        self._counts_steps = optim.name == "adamw"
        self._average = self._copy_weights() if optim.ema_decay is not None else None

    @classmethod
    def start(
        cls,
        model: nn.Module,
        optim: OptimConfig,
        parallel: ParallelConfig,
        global_batch: int,
        groups: Sequence[ParameterGroup] = (),
    ) -> TrainEngine:
        """Hand `model` to DeepSpeed; rank 0's weights become everyone's.

        Args:
            model: Any module whose forward takes (B, C, D, H, W) and returns logits or a list of
                them. Moved to this rank's device.
            optim: The optimiser.
            parallel: How the work is spread.
            global_batch: Patches per optimiser step over all ranks.
            groups: All weights of the model, where they do not all move alike.

        Raises:
            ConfigError: The batch cannot be divided, an entry of `parallel.deepspeed` is ours, or
                this machine lacks what offload to NVMe needs.
        """
        distributed.start()
        filter_warnings()
        _skip_shared_memory_op()
        _forget_ended_groups()
        world = distributed.world()
        stage = parallel.stage(world)
        if parallel.offload == "nvme":
            _check_nvme()
        for parameter in model.parameters():  # DeepSpeed flattens them: channels_last would crash
            parameter.data = parameter.data.contiguous()
        config = deepspeed_config(
            optim,
            parallel,
            stage,
            accumulation_steps(global_batch, parallel.micro_batch, world),
            sum(parameter.numel() for parameter in model.parameters()),
        )
        optimizer = build_optimizer(model.parameters(), optim, groups)
        wrapped, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=config)
        wrapped.train()
        return cls(wrapped, optimizer, optim, global_batch)

    def close(self) -> None:
        """Release DeepSpeed's hooks and buffers; the process group stays."""
        self._wrapped.destroy()

    def forward(self, image_bcdhw: torch.Tensor) -> Any:
        """The model's output, computed in the configured precision (bf16 logits under `bf16`)."""
        return self._wrapped(image_bcdhw.to(self.device, non_blocking=True))

    def backward(self, loss: torch.Tensor) -> None:
        """Add a micro-batch's gradient; the mean over micro-batches and ranks is what counts."""
        # 1 for a finite loss, NaN for another: then the whole gradient is NaN on every rank, and
        # all skip the step without a further question between them.
        self._wrapped.backward(loss * (1 + (loss - loss).detach()))
        if not self._wrapped.is_gradient_accumulation_boundary():
            self._wrapped.step()  # counts the micro-batch, moves nothing

    def step(self) -> Update:
        """Move the weights once, unless the gradient is not finite; the schedule goes on anyway."""
        lr = learning_rate(self._optim, self.steps_done)
        set_learning_rate(self._optimizer, lr)
        if self.zero_stage == 0:
            grad_norm = clip_gradients(self._trained.values(), self._optim.clip_norm)
            skipped = not bool(torch.isfinite(grad_norm))
            if skipped:
                self._wrapped.zero_grad()  # sets them to None, which the optimiser passes over
            self._wrapped.step()
        else:
            self._wrapped.step()
            grad_norm = torch.as_tensor(self._wrapped.get_global_grad_norm()).float()
            skipped = not self._wrapped.was_step_applied()
        if self._average is not None and not skipped:
            assert self._optim.ema_decay is not None
            self._average.move_towards_weights(decay_at(self._optim.ema_decay, self.steps_done))
        self.steps_done += 1
        return Update(grad_norm, skipped, lr)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Inside, the model is in evaluation mode with averaged weights, if weights are averaged.

        No gradient is kept. All ranks must enter it.
        """
        self._wrapped.eval()
        try:
            with torch.no_grad():
                if self._average is None:
                    yield
                else:
                    last = self._copy_weights()
                    self._put_in_place(self._average)
                    yield
                    self._put_in_place(last)
        finally:
            self._wrapped.train()

    @property
    def module(self) -> nn.Module:
        """The model itself; under ZeRO 3 its weights are only whole inside `forward`."""
        return self._wrapped.module

    def weight_shapes(self) -> dict[str, tuple[int, ...]]:
        """Name and whole shape of every weight and saved buffer."""
        shapes = {name: whole_shape(p) for name, p in self.module.named_parameters()}
        return shapes | {name: tuple(buffer.shape) for name, buffer in self._buffers()}

    def gather_weights(self) -> dict[str, torch.Tensor]:
        """Copies of all weights and buffers in host memory, on rank 0; empty elsewhere.

        All ranks must call it.
        """
        weights = {}
        for name, parameter in self.module.named_parameters():
            with self._whole([parameter]):
                if distributed.is_main():
                    weights[name] = parameter.detach().to("cpu", copy=True)
        if distributed.is_main():
            weights |= {name: b.detach().to("cpu", copy=True) for name, b in self._buffers()}
        return weights

    @torch.no_grad()
    def load_weights(self, read: Callable[[str], torch.Tensor]) -> None:
        """Set every weight and buffer on every rank.

        Args:
            read: Gives the tensor of a name; called on rank 0 only. All ranks must call this.
        """
        for name, parameter in self.module.named_parameters():
            with self._whole([parameter], modifier_rank=0):
                if distributed.is_main():
                    parameter.copy_(read(name))
                if self.zero_stage < 3:
                    dist.broadcast(parameter.data, src=0)
        for name, buffer in self._buffers():
            if distributed.is_main():
                buffer.copy_(read(name))
            dist.broadcast(buffer, src=0)
        self._refresh_optimizers_copy()
        if self._average is not None:
            self._average = self._copy_weights()

    @property
    def averages(self) -> bool:
        """Whether a moving average of the weights is kept."""
        return self._average is not None

    def gather_average(self) -> dict[str, torch.Tensor]:
        """As `gather_weights`, with the average in place of each trained weight."""
        assert self._average is not None
        weights = self.gather_weights()
        for name in self._trained:
            whole = self._average.whole(name)
            if distributed.is_main():
                weights[name] = whole.to("cpu", copy=True)
        return weights

    def load_average(self, read: Callable[[str], torch.Tensor]) -> None:
        """Set the average on every rank; `read` as in `load_weights`, which comes first."""
        assert self._average is not None
        for name, parameter in self._trained.items():
            whole = from_main(read, name, whole_shape(parameter), self.device)
            self._average.set(name, whole)

    def optimizer_shapes(self) -> dict[str, tuple[int, ...]]:
        """Name and whole shape of every tensor of the optimiser state."""
        shapes = {f"{key}/{name}": whole_shape(p) for name, p, key in self._moments}
        return shapes | ({"step": ()} if self._counts_steps else {})

    def gather_optimizer(self) -> dict[str, torch.Tensor]:
        """Copies of the optimiser state in host memory, on rank 0; empty elsewhere.

        Keys are `<state>/<weight>`, e.g. `momentum_buffer/encoder.0.weight`, and `step` for AdamW.
        All ranks must call it.
        """
        state = {}
        for name, parameter, key in self._moments:
            whole = self._moments.get(parameter, key)
            if distributed.is_main():
                state[f"{key}/{name}"] = whole.to("cpu", copy=True)
        if distributed.is_main() and self._counts_steps:
            state["step"] = next(iter(self._optimizer.state.values()))["step"].clone()
        return state

    @torch.no_grad()
    def load_optimizer(self, read: Callable[[str], torch.Tensor], steps_done: int) -> None:
        """Set the whole optimiser state on every rank and continue the schedule.

        Args:
            read: Gives the tensor of a key of `gather_optimizer`; called on rank 0 only. All ranks
                must call this.
            steps_done: Optimiser steps taken before.
        """
        for name, parameter, key in self._moments:
            shape = whole_shape(parameter)
            whole = from_main(read, f"{key}/{name}", shape, self.device)
            self._moments.set(parameter, key, whole)
        if self._counts_steps:
            step = read("step").clone() if distributed.is_main() else torch.zeros(())
            dist.broadcast(step, src=0)
            for state in self._optimizer.state.values():
                state["step"].copy_(step)
        self.steps_done = steps_done

    def _refresh_optimizers_copy(self) -> None:
        """Let the optimiser step from the weights as they are now."""
        if self.zero_stage == 3:  # refresh_fp32_params does not know of files (0.19.8)
            for parameter in self._trained.values():
                share = parameter.ds_tensor  # type: ignore[attr-defined]
                fragments.safe_set_local_fp32_param(parameter, share)
        elif self.zero_stage > 0:
            self._wrapped.optimizer.refresh_fp32_params()

    @property
    def _trained(self) -> dict[str, nn.Parameter]:
        return {name: p for name, p in self.module.named_parameters() if p.requires_grad}

    def _copy_weights(self) -> SharedOutWeights:
        return SharedOutWeights(self._trained)

    @torch.no_grad()
    def _put_in_place(self, weights: SharedOutWeights) -> None:
        """Let the model compute with other weights; the optimiser's own copy stays."""
        for name, parameter in self._trained.items():
            whole = weights.whole(name)
            with self._whole([parameter], modifier_rank=0):
                parameter.copy_(whole)

    def _buffers(self) -> Iterator[tuple[str, torch.Tensor]]:
        saved = self.module.state_dict(keep_vars=True).keys()
        return ((name, b) for name, b in self.module.named_buffers() if name in saved)

    def _whole(
        self, parameters: list[nn.Parameter], modifier_rank: int | None = None
    ) -> AbstractContextManager[None]:
        """Inside, sharded weights are whole; outside ZeRO 3 they always are."""
        return deepspeed.zero.GatheredParameters(
            parameters, modifier_rank=modifier_rank, enabled=self.zero_stage == 3
        )


class _Moments:
    """The optimiser's tensors that belong to one weight each, wherever the ZeRO stage keeps them.

    Iterates over (weight's name, weight, state's name) in an order that all ranks share.
    """

    def __init__(
        self, wrapped: Any, optimizer: torch.optim.Optimizer, keys: tuple[str, ...]
    ) -> None:
        self._stage: int = wrapped.zero_optimization_stage()
        self._optimizer = optimizer
        trained = [(n, p) for n, p in wrapped.module.named_parameters() if p.requires_grad]
        self._items = [(name, parameter, key) for name, parameter in trained for key in keys]
        zero = wrapped.optimizer
        if self._stage == 0:
            tensors = [parameter for _, parameter in trained]
        elif self._stage < 3:
            tensors = zero.single_partition_of_fp32_groups
        else:
            tensors = zero.fp32_partitioned_groups_flat
        for number, tensor in enumerate(tensors):
            in_files = self._stage == 3 and zero._swappable_optimizer_subgroup(number)
            if in_files:
                zero._optimizer_states_and_gradient_swap_in(number)
            create_state(optimizer, [tensor], keys)
            if in_files:
                zero._optimizer_states_and_gradient_swap_out(number)
        if self._stage in (1, 2):  # lets `safe_get_...` find them; DeepSpeed does it after a step
            for group, flat in zip(zero.bit16_groups, tensors, strict=True):
                fragments.lazy_init_hp_params_optimizer_state(group, flat, optimizer.state)

    def __iter__(self) -> Iterator[tuple[str, nn.Parameter, str]]:
        return iter(self._items)

    def get(self, parameter: nn.Parameter, key: str) -> torch.Tensor:
        """The whole tensor on every rank; all must ask for it."""
        if self._stage == 0:
            return self._optimizer.state[parameter][key]
        return fragments.safe_get_full_optimizer_state(parameter, key)

    def set(self, parameter: Any, key: str, whole: torch.Tensor) -> None:
        """Let each rank keep its share of the whole tensor."""
        if self._stage == 0:
            self._optimizer.state[parameter][key].copy_(whole)
        elif self._stage < 3:
            fragments.safe_set_full_optimizer_state(parameter, whole, key)
        else:  # safe_set_full_... fails where the size is no multiple of the ranks (0.19.8)
            share = parameter.partition_numel()
            padded = torch.zeros(share * distributed.world(), device=whole.device)
            padded[: whole.numel()] = whole.flatten()
            mine = padded.narrow(0, share * distributed.rank(), share)
            fragments.safe_set_local_optimizer_state(parameter, mine, key)
