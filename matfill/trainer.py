"""A run's state and its one update: two optimisers, averaged weights, schedules, what a checkpoint keeps."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel

from matfill import bounds
from matfill.checkpoint import WEIGHTS_NAME, load_tensors, save_tensors, save_weights
from matfill.config import TrainConfig
from matfill.errors import MatfillError, WeightsError
from matfill.layers import Conv2d
from matfill.model import MatNet
from matfill.muon import Muon
from matfill.noise import Noise, gaussian_noise
from matfill.objective import Objective, unit_images
from matfill.stacks import from_latents

CHECKPOINT_NAME = "checkpoint.safetensors"
CHECKPOINT_FORMAT = "matfill checkpoint 2"
MOST_SKIPS = 100  # skipped updates in a row after which a run is given up
GUARD_UPDATES = 50  # updates after which the usual gradient norm is known well enough to skip by it


@dataclass
class Progress:
    """What a run needs to know of its past, besides tensors; stored in the checkpoint as it is."""

    update: int = 0
    seconds: float = 0.0  #: of training, pauses between resumes not counted
    images: int = 0
    skipped: int = 0
    usual_norm: float = 0.0  #: running mean of gradient norms


class Trainer:
    """Everything of a run that a checkpoint keeps, and the update that changes it."""

    def __init__(self, model: MatNet, config: TrainConfig, device: torch.device):
        config.require_fit(model.config)
        self.config, self.device = config, device
        self.model = model.to(device)
        if config.inference_only:
            model.requires_grad_(False)
            for parameter in model.inference_parameters():
                parameter.requires_grad_(True)
        self.rank, self.world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        objective = Objective(self.model, config.prediction_weight, config.component_entropy, config.importance_samples)
        self.objective = DistributedDataParallel(objective) if dist.is_initialized() else objective
        self.ema = AveragedModel(self.model, multi_avg_fn=self._average)
        self.progress = Progress()
        self.consecutive_skips = 0
        convolutions = [m for m in model.modules() if isinstance(m, Conv2d) and not m.output]
        kernels = {id(m.weight) for m in convolutions if m.weight.shape[0] >= 16 and config.muon_learning_rate}
        trained = [p for p in model.parameters() if p.requires_grad]
        matrices, rest = [p for p in trained if id(p) in kernels], [p for p in trained if id(p) not in kernels]
        self.optimizers: list[torch.optim.Optimizer] = [
            AdamW(rest, config.learning_rate, betas=config.betas, eps=config.eps, weight_decay=0.0)
        ]
        if matrices:
            dtype = torch.bfloat16 if config.precision == "bfloat16" else torch.float32
            self.optimizers.append(
                Muon(matrices, config.muon_learning_rate, weight_decay=config.weight_decay, dtype=dtype)
            )
        self.schedules = [LambdaLR(optimizer, self._rate_factor) for optimizer in self.optimizers]

    def share_done(self) -> float:
        """Share of the run that is done, 0 to 1."""
        if self.config.updates is not None:
            return min(1.0, self.progress.update / self.config.updates)
        return min(1.0, self.progress.seconds / (60 * self.config.minutes))

    def _rate_factor(self, update: int) -> float:
        warmup = min(1.0, (update + 1) / max(1, self.config.warmup))
        decay = self.config.decay
        falling = max(0.0, (self.share_done() - (1 - decay)) / decay) if decay else 0.0
        return warmup * 0.5 * (1 + math.cos(math.pi * falling))

    def kl_weights(self) -> list[float]:
        """Of every level's rate, coarsest first: coarser latents stay cheap for longer, or they never come to life."""
        count = len(self.model.config.levels)
        lengths = [max(1, self.config.kl_warmup * 2 ** (count - 1 - level)) for level in range(count)]
        return [min(1.0, (self.progress.update + 1) / length) for length in lengths]

    def top_down_weight(self) -> float:
        """Of the distortion by the top-down output alone: high while latents come to life, then soon of no account."""
        return self.config.top_down_weight * (1 - self.share_done()) ** 3

    def _average(self, averaged: list[Tensor], current: list[Tensor], count: Tensor) -> None:
        # early on the average must not remember the random start: a running mean at first, then exponential
        decay = min(self.config.ema, (1 + self.progress.update) / (10 + self.progress.update))
        torch._foreach_lerp_(averaged, current, 1 - decay)

    def step(
        self, images: Tensor, missing: Tensor, warp: Tensor | None = None, *, noise: Noise | None = None
    ) -> tuple[Tensor, float]:
        """One update on what `TrainBatches` gives: the sums of `Objective`, gradient norm.

        An update whose gradient is not finite, or far larger than usual, changes nothing but the count of skips. Some
        updates are followed by a step of the inference stacks alone, see `_step_on_own_samples`.
        """
        config, progress = self.config, self.progress
        noise = noise or gaussian_noise(self.device, config.seed, 0, progress.update, self.rank)
        draws = np.random.default_rng((config.seed, progress.update))  # the same ones in every process
        informed = int(draws.integers(len(self.model.config.levels)))
        share = slice(self.rank * len(images), (self.rank + 1) * len(images))
        hinted = torch.from_numpy(draws.random(config.batch)[share] < config.hinted).to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=config.precision == "bfloat16"):
            x, missing = unit_images(images, self.device), missing.to(self.device)
            loss, sums = self.objective(
                x,
                missing,
                noise,
                self.kl_weights(),
                informed,
                self.top_down_weight(),
                hinted if config.hinted else None,
                None if warp is None else warp.to(self.device),
            )
        loss.backward()
        limit = config.skip * progress.usual_norm if progress.update >= GUARD_UPDATES else math.inf
        norm, applied = self._apply_gradients(limit)
        self.consecutive_skips = 0 if applied else self.consecutive_skips + 1
        every, since = config.own_samples_every, progress.update - config.own_samples_from
        if every and since >= 0 and since % every == 0:
            self._step_on_own_samples(x, missing, noise, limit)
        if math.isfinite(norm):  # a lasting rise is let in step by step, a single spike hardly counts
            progress.usual_norm += (min(norm, limit) - progress.usual_norm) / min(progress.update + 1, 100)
        progress.update += 1
        progress.images += config.batch
        for schedule in self.schedules:
            schedule.step()
        self.ema.update_parameters(self.model)
        if self.consecutive_skips >= MOST_SKIPS:
            raise MatfillError(
                f"training has diverged: {MOST_SKIPS} updates in a row had no usable gradient, up to update "
                f"{progress.update}; start another run with lower learning rates, from what this one saved, if anything"
            )
        return sums, norm

    def _apply_gradients(self, limit: float) -> tuple[float, bool]:
        """Move what has a gradient, unless that is not finite or above `limit`: gradient norm, whether it was done."""
        norm = float(nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip))
        usable = math.isfinite(norm) and norm <= limit
        for optimizer in self.optimizers:
            if usable:
                optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.progress.skipped += not usable
        return norm, usable

    def _step_on_own_samples(self, x: Tensor, missing: Tensor, noise: Noise, limit: float) -> None:
        """Eq. 13: lower the free energy of the model's own samples of what is missing, by the inference stacks alone.

        Or, with `own_latents`, raise q of the very z that a sample was drawn from (the sleep phase of Hinton et al.
        1995, "The wake-sleep algorithm"), lest q miss some that are likely.

        All other parameters stay without a gradient, and so the optimisers leave them and their own state of them
        alone: neither momentum nor weight decay moves them.
        """
        model, parameters = self.model, self.model.inference_parameters()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bfloat16"):
            with torch.no_grad():
                drawn = model.generate(x, missing, noise, (1.0,) * len(model.config.levels))
                x = model.draw(x, drawn, noise)
            if self.config.own_latents:
                known, encoded = from_latents(drawn.latents), model.encode(x, missing, infer=True)
                nats = -bounds.posterior_log_prob(model.decode(encoded, known, noise, autoregress=False))
            else:
                nats = bounds.free_energy(model(x, missing, noise))
            loss = nats.mean() / model.config.dims
        gradients = torch.autograd.grad(loss, parameters)
        if self.world > 1:  # what DistributedDataParallel does for `step`
            joined = nn.utils.parameters_to_vector(gradients)
            dist.all_reduce(joined)
            nn.utils.vector_to_parameters(joined / self.world, gradients)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        self._apply_gradients(limit)

    def save(self, folder: Path, card: dict[str, Any]) -> None:
        """Write the checkpoint and the averaged weights. Parameters that are not finite are refused."""
        if not all(p.isfinite().all() for p in self.model.parameters()):
            raise MatfillError("the parameters are no longer finite; the last good checkpoint is kept")
        tensors = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        tensors |= {f"ema.{k}": v for k, v in self.ema.module.state_dict().items()}
        groups = []
        for i, optimizer in enumerate(self.optimizers):
            state = optimizer.state_dict()
            groups.append(state["param_groups"])
            for index, values in state["state"].items():
                tensors |= {f"optimizer.{i}.{index}.{k}": torch.as_tensor(v) for k, v in values.items()}
        training = {
            "updates": self.progress.update,
            "minutes": round(self.progress.seconds / 60, 1),
            "images": self.progress.images,
        }
        card = {**card, "recipe": self.config.to_dict(), "training": {**card.get("training", {}), **training}}
        schedules = [{"last_epoch": s.last_epoch, "_last_lr": s.get_last_lr()} for s in self.schedules]
        state = {"progress": vars(self.progress), "groups": groups, "schedules": schedules}
        header = {"format": CHECKPOINT_FORMAT, "model": self.model.config.to_dict(), "card": card, "state": state}
        # shared memory is not for safetensors: the average's copy of a tensor is never the model's own
        save_tensors(folder / CHECKPOINT_NAME, tensors, header)
        save_weights(folder / WEIGHTS_NAME, self.ema.module, card, torch.float16)

    def restore(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Go back to what `save` wrote."""
        for prefix, module in (("model.", self.model), ("ema.", self.ema.module)):
            module.load_state_dict({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})
        for i, optimizer in enumerate(self.optimizers):
            found: dict[int, dict[str, Tensor]] = {}
            for name, tensor in tensors.items():
                if name.startswith(f"optimizer.{i}."):
                    _, _, index, key = name.split(".", 3)
                    found.setdefault(int(index), {})[key] = tensor
            optimizer.load_state_dict({"state": found, "param_groups": state["groups"][i]})
        for schedule, values in zip(self.schedules, state["schedules"], strict=True):
            schedule.load_state_dict({**schedule.state_dict(), **values})
        self.ema.n_averaged.fill_(1)
        self.progress = Progress(**state["progress"])


def load_checkpoint(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and header of a run folder's checkpoint; WeightsError where there is none that this version reads."""
    if not os.path.isfile(folder / CHECKPOINT_NAME):
        raise WeightsError(f"nothing to resume in {folder}: it holds no {CHECKPOINT_NAME}; start without --resume")
    tensors, header = load_tensors(folder / CHECKPOINT_NAME)
    if header.get("format") != CHECKPOINT_FORMAT:
        raise WeightsError(f"{folder / CHECKPOINT_NAME} is not a checkpoint of this version of matfill")
    return tensors, header
