"""Exponential moving average of a module's parameters, as in stable-audio-tools: its decay grows with the updates."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from sagasr.config import settings
from sagasr.model.sharding import divided_like, whole
from sagasr.torch_internals import lerp_

UPDATES = "_updates"  # in the state, beside the names of weights


def decay_at(updates: int, beta: float, power: float) -> float:
    """Return the share kept of the old average after ``updates`` updates: 0 at first, then towards ``beta``."""
    return min(beta, 1 - float((1 + updates) ** -power))


class Ema:
    """The averaged weights of ``module``. Both weights stay usable: the module's own and, inside ``swap``, these."""

    def __init__(self, module: nn.Module, ema: settings.Ema | None = None) -> None:
        self.settings = ema or settings.Ema()
        self.updates = 0
        self._live = {name: weight for name, weight in module.named_parameters() if weight.requires_grad}
        self._average = {name: weight.detach().clone() for name, weight in self._live.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Move the average towards the module's present weights; call once after each optimiser step."""
        self._follow_device()
        decay = decay_at(self.updates, self.settings.beta, self.settings.power)
        lerp_([*self._average.values()], [*self._live.values()], 1 - decay)
        self.updates += 1

    @contextmanager
    def swap(self) -> Iterator[None]:
        """Put the averaged weights into the module, and its own back at the end; nothing is copied but shards."""
        self._follow_device()
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    def weights(self) -> dict[str, Tensor]:
        """Return the averaged weights by parameter name."""
        return dict(self._average)

    def state_dict(self) -> dict[str, Tensor]:
        """Return weights and update count, ready for a safetensors file; of shards every worker has to ask."""
        return {name: whole(average) for name, average in self._average.items()} | {UPDATES: torch.tensor(self.updates)}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over what ``state_dict`` returned. Raises KeyError when a weight is missing."""
        for name, average in self._average.items():
            average.copy_(divided_like(average, state[name]))
        self.updates = int(state[UPDATES])

    @torch.no_grad()
    def _exchange(self) -> None:
        for name, live in self._live.items():
            if isinstance(live, DTensor):  # what gathers the shards knows them by their memory
                own = live.detach().clone()
                live.copy_(self._average[name])
                self._average[name] = own
            else:
                live.data, self._average[name] = self._average[name], live.data

    def _follow_device(self) -> None:
        """A module may have moved to its accelerator after the average was made."""
        for name, live in self._live.items():
            if self._average[name].device != live.device:
                self._average[name] = self._average[name].to(live.device)
