"""A fine-tuning run in a process of its own; `test_finetune_resume.py` starts it.

usage: finetune_worker.py FOLDER RUN

FOLDER holds a bundle and a store.
"""

import sys
from pathlib import Path

from finetune.config import AdaptConfig, FinetuneConfig, LoraConfig, PartRates
from finetune.train import train
from stunet.data.loader import LoaderConfig
from stunet.engine.loop import LoopConfig
from stunet.engine.optim import OptimConfig
from stunet.engine.parallel import ParallelConfig


def finetune(folder: Path, run: str) -> None:
    """Low-rank changes of the decoder, heads with a rate of their own, a frozen encoder."""
    train(
        FinetuneConfig(
            out=str(folder / run),
            store=str(folder / "store"),
            init=str(folder / "bundle"),
            loader=LoaderConfig(workers=0),
            optim=OptimConfig(
                name="adamw", lr=1e-2, total_steps=4, warmup_steps=1, ema_decay=0.9, clip_norm=1.0
            ),
            adapt=AdaptConfig(
                train=("head",),
                lr=PartRates(decoder=0.5),
                stage_decay=0.9,
                lora=LoraConfig(rank=2, parts=("decoder",)),
                l2_sp=0.1,
            ),
            parallel=ParallelConfig(micro_batch=1, precision="fp32"),
            loop=LoopConfig(log_every=1, checkpoint_every=2),
        )
    )


if __name__ == "__main__":
    finetune(Path(sys.argv[1]), sys.argv[2])
