"""SAGA-SR: the diffusion transformer with its conditions, its training loss and its sampler.

All latents here are normalised (``LatentNorm``). The model draws nothing: noise, times and dropout masks come in.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sagasr.codec.latents import LatentNorm
from sagasr.codec.precision import fast
from sagasr.config.settings import Config, Sampler, latent_channels
from sagasr.model import flow
from sagasr.model.conditions import Conditioner, Conditioning, OwnTokens, build_transformer, drop, null_cross, null_low
from sagasr.model.guidance import Branch, guidance_branches
from sagasr.model.inputs import ConditionInputs, seeded
from sagasr.plugins.parts import load
from sagasr.published.stable_audio import compact, settled_context

Mask = Tensor | None  # of the rows [B] whose condition is dropped


class SagaModel(nn.Module):
    """Predicts the velocity of high latents from noisy ones, given the low latents and the conditions."""

    def __init__(
        self, config: Config, latent_channels: int, norm: LatentNorm | None = None, vocabulary: Sequence[str] = ()
    ) -> None:
        super().__init__()
        self.conditions = config.conditions
        with seeded(config.seed, "transformer"):
            self.transformer = build_transformer(config, latent_channels)
        self.conditioner = Conditioner(config, vocabulary)
        with seeded(config.seed, "own"):
            self.own = OwnTokens(config) if config.conditions.own else None
        self.preconditioned = config.model.preconditioning == "level"
        for name, values in (norm or LatentNorm.identity(latent_channels))._asdict().items():
            self.register_buffer(f"latent_{name}", values.clone())

    @property
    def norm(self) -> LatentNorm:
        """The latents' normalisation; part of the checkpoint."""
        return LatentNorm(self.latent_mean, self.latent_std, self.latent_level)  # type: ignore[arg-type]

    def prepare(self, captions: Sequence[str]) -> Tensor:
        """Return captions as ``ConditionInputs.text``, on the CPU."""
        return self.conditioner.text.prepare(captions)

    def velocity(
        self,
        noisy: Tensor,
        t: Tensor,
        low: Tensor,
        inputs: ConditionInputs,
        drop_low: Mask = None,
        drop_text: Mask = None,
    ) -> Tensor:
        """Return the velocity [B, D, N] at ``noisy`` and time ``t`` [B], with the conditions of masked rows [B] nulled.

        Without text or conditions of the user's own there is nothing to drop: ``drop_text`` then has no effect.
        """
        conditioning = self.condition(low, inputs)
        if self.conditions.cross_dropout:
            cross = drop(conditioning.cross, null_cross(conditioning.cross), drop_text)
            conditioning = conditioning._replace(cross=cross)
        return self._transform(noisy, t, drop(low, null_low(low, self.conditions.low.empty), drop_low), conditioning)

    def condition(self, low: Tensor, inputs: ConditionInputs) -> Conditioning:
        """Return the conditioning of a batch, nothing dropped, for low latents [B, D, N]."""
        conditioning: Conditioning = self.conditioner(inputs)
        if self.own is None:
            return conditioning
        own = self.own(self.norm.invert(low))
        return conditioning._replace(cross=torch.cat([conditioning.cross, own], dim=1))

    def loss(
        self,
        high: Tensor,
        low: Tensor,
        noise: Tensor,
        t: Tensor,
        inputs: ConditionInputs,
        drop_low: Mask = None,
        drop_text: Mask = None,
    ) -> Tensor:
        """Return the mean squared error of the velocity: the training loss, unweighted as in the paper."""
        noisy = flow.interpolate(high, noise, t)
        return F.mse_loss(self.velocity(noisy, t, low, inputs, drop_low, drop_text), flow.velocity(high, noise))

    forward = loss  # what DistributedDataParallel calls

    @torch.inference_mode()
    def sample(
        self,
        low: Tensor,
        inputs: ConditionInputs,
        noise: Tensor,
        sampler: Sampler,
        on_step: Callable[[], object] | None = None,
        known: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """Return normalised high latents [B, D, N]: Euler steps from ``noise`` under guidance, in float32.

        On a GPU matrix products use TF32 (see ``sagasr.codec.precision``), also those of a user's own solver.
        Conditions are embedded once and all guidance branches share one batch. ``known``: latents that are settled
        already, and how far, [B, 1, N]: where it is 1 they come back, and the rest is sampled as their continuation.
        """
        with torch.autocast(low.device.type, enabled=False), fast:
            low, noise = low.float(), noise.float()
            branches = guidance_branches(self.conditions, sampler.guidance)
            weights = torch.tensor([branch.weight for branch in branches], device=low.device)
            lows, conditioning = self._stack(low, self.condition(low, inputs), branches)

            def velocity_at(point: Tensor, moment: float) -> Tensor:
                points = point.repeat(len(branches), 1, 1)
                t = point.new_full((len(points),), moment)
                velocities = self._transform(points, t, lows, conditioning)
                if on_step is not None:
                    on_step()
                if len(branches) > 1:
                    velocities = torch.einsum("k,kbdn->bdn", weights, velocities.unflatten(0, (len(branches), -1)))
                return velocities if known is None else flow.steered(velocities, point, moment, *known)

            with settled_context(self.transformer, compact(conditioning.cross, conditioning.empty)[0]):
                times = flow.schedule(sampler.schedule, sampler.steps)
                solve = flow.euler if sampler.solver == "euler" else load("sampler", sampler.solver).sample
                return solve(velocity_at, noise, times)  # type: ignore[no-any-return]

    def _stack(
        self, low: Tensor, conditioning: Conditioning, branches: Sequence[Branch]
    ) -> tuple[Tensor, Conditioning]:
        """Return low latents and conditioning of all branches, one after the other along the batch."""
        cross, global_, prepend, empty = conditioning
        empty_low, empty_cross = null_low(low, self.conditions.low.empty), null_cross(cross)
        return torch.cat([low if branch.low else empty_low for branch in branches]), Conditioning(
            torch.cat([cross if branch.text else empty_cross for branch in branches]),
            None if global_ is None else global_.repeat(len(branches), 1),
            None if prepend is None else prepend.repeat(len(branches), 1, 1),
            empty,
        )

    def _transform(self, noisy: Tensor, t: Tensor, low: Tensor, conditioning: Conditioning) -> Tensor:
        transformer: Any = self.transformer
        prepend = conditioning.prepend
        if prepend is not None:
            prepend = prepend + transformer.to_timestep_embed(transformer.timestep_features(t[:, None]))[:, None]
        cross, bias = compact(conditioning.cross, conditioning.empty)
        velocity: Tensor = transformer(
            noisy,
            t,
            cross_attn_cond=cross,
            cross_attention_score_mod=bias,
            input_concat_cond=low,
            global_embed=conditioning.global_,
            prepend_cond=prepend,
            prepend_cond_mask=None if prepend is None else prepend.new_ones(prepend.shape[:2], dtype=torch.bool),
            use_checkpointing=False,
        )
        if not self.preconditioned:
            return velocity
        skip, scale = flow.linear_guess(t, self.norm.level)
        return skip * noisy + scale * velocity


def build_model(config: Config, norm: LatentNorm | None = None, vocabulary: Sequence[str] = ()) -> SagaModel:
    """Return the model of a configuration, initialised from its seed."""
    return SagaModel(config, latent_channels(config.codec, config.audio.channels), norm, vocabulary)
