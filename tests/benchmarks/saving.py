"""One checkpoint written while a training waits: weights, moments and average of a transformer."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch

from sagasr.training import checkpoint
from tests.benchmarks import data
from tests.benchmarks.measure import Row, in_turn

PARAMETERS = 12_000_000  # each in four copies of 4 bytes: 0.2 GB


def against_lightning(quick: bool) -> Row:
    """Ours, with hashes, sync and the check before old ones go; quality: what is read back is what was saved."""
    count = PARAMETERS // (50 if quick else 1)
    module, state = Holder(count), {str(copy): torch.randn(count) for copy in range(4)}
    trainer = pl.Trainer(logger=False, accelerator="cpu", enable_progress_bar=False, enable_checkpointing=False)
    trainer.strategy.connect(module)
    tree = trainer._checkpoint_connector.dump_checkpoint() | {"state_dict": state}
    folder = data.scratch() / "checkpoints"
    ours, theirs = in_turn(
        lambda: _save(tree, folder),
        lambda: trainer.strategy.save_checkpoint(tree, data.scratch() / "lightning.ckpt"),
        1 if quick else 5,
    )
    found = checkpoint.load(checkpoint.folder_of(folder, 1))["state_dict"]
    equal = all(torch.equal(found[name], state[name]) for name in state)
    return Row(ours, theirs, "checkpoint", "the same bits", equal)


def _save(tree: dict[str, Any], folder: Path) -> None:
    checkpoint.save(tree, checkpoint.folder_of(folder, 1))
    checkpoint.prune(folder)


class Holder(pl.LightningModule):
    """A module of one parameter."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
