"""Where and how a training runs: settings that change nothing that is measured."""

from typing import Self

from pydantic import Field, field_validator, model_validator

from sagasr.config.strict import Strict


class Runtime(Strict):
    """Where and how a training runs; changes nothing that is measured, so it never enters a fingerprint."""

    workers: int = Field(1, ge=1, description="data-parallel processes")
    sharded: bool = Field(False, description="each worker keeps its share of the training's state, not all of it")
    gpus_per_worker: float = Field(0.0, ge=0)
    cpus_per_worker: float = Field(1.0, gt=0)
    checkpoint_every: int = Field(500, ge=1, description="training steps between two checkpoints")
    hang_seconds: float = Field(1_800.0, gt=0, description="a worker without a sign of life for so long is replaced")
    notice_seconds: float = Field(25.0, ge=0, description="a preempted machine's time between SIGTERM and its end")

    @field_validator("gpus_per_worker")
    @classmethod
    def _one_gpu_at_most(cls, share: float) -> float:
        if share > 1:
            raise ValueError("one worker uses one GPU, or a part of it; give 1, and more workers for more GPUs")
        return share

    @model_validator(mode="after")
    def _workers_fit_together(self) -> Self:
        if self.workers > 1 and 0 < self.gpus_per_worker < 1:
            raise ValueError(
                f"each of {self.workers} workers needs a GPU of its own, as NCCL refuses two on one; "
                "give gpus_per_worker: 1, or workers: 1"
            )
        if self.sharded and self.workers == 1:
            raise ValueError("sharded divides a training's state among workers; give it 2 or more, or leave it out")
        return self
