"""Seconds per step of vlp's Lightning loop, with W&B (offline), metrics.jsonl and progress bar, over those of a plain PyTorch
loop on the same model and data: `python experiments/benchmarks/lightning_overhead.py [overrides]`.

The two alternate in one process. Both load data, clip gradients, and step optimizer and schedule; start-up and validation are
not measured. Printed: the ratio of each round, their median, and the range.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import lightning as L
import torch

from vlp.build import build
from vlp.launch.config.compose import Composer, conf_folder
from vlp.launch.config.resolve import resolve_config
from vlp.models.features import compute_features
from vlp.training.assemble import RunParts, assemble, build_loggers, silence_known_warnings


class StepTimer(L.Callback):
    """Seconds of all steps after the first `skip` ones."""

    def __init__(self, skip: int) -> None:
        self.skip, self.start, self.seconds, self.steps = skip, 0.0, 0.0, 0

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.global_step == self.skip:
            self.start = time.perf_counter()
        elif trainer.global_step > self.skip:
            self.seconds, self.steps = time.perf_counter() - self.start, trainer.global_step - self.skip


def lightning_loop(config: dict[str, Any], folder: Path, steps: int, skip: int) -> float:
    parts, timer = assemble(config, folder), StepTimer(skip)
    trainer = build(
        {**config["trainer"], "max_steps": skip + steps, "max_epochs": -1, "limit_val_batches": 0},
        logger=build_loggers(config, folder),
        callbacks=[build(config["callbacks"]["progress"]), timer],
        default_root_dir=folder,
        use_distributed_sampler=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    trainer.fit(parts.module, parts.data)
    return timer.seconds / timer.steps


def plain_loop(config: dict[str, Any], folder: Path, steps: int, skip: int) -> float:
    parts: RunParts = assemble(config, folder)
    parts.data.prepare_data()
    parts.data.setup("fit")
    module = parts.module.train()
    optimizer = module.make_optimizer(module)
    schedule = module.make_schedule(optimizer, skip + steps)
    done, start = 0, 0.0
    while True:
        for batch in parts.data.train_dataloader():
            losses = []
            fields = set().union(*(o.uses for o in module.trained.values()))
            features = compute_features(module.model, batch, fields)
            for objective in module.trained.values():
                losses.append(objective.weight * objective(module.model, batch, features).value)
            optimizer.zero_grad()
            torch.stack(losses).sum().backward()
            torch.nn.utils.clip_grad_norm_(module.parameters(), config["trainer"]["gradient_clip_val"])
            optimizer.step()
            schedule.step()
            module.model.clamp_parameters()
            done += 1
            if done == skip:
                start = time.perf_counter()
            if done == skip + steps:
                return (time.perf_counter() - start) / steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=60, help="timed steps of each loop and round")
    parser.add_argument("--skip", type=int, default=10, help="untimed steps before them")
    options, overrides = parser.parse_known_args()
    silence_known_warnings()
    torch.set_num_threads(2)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = resolve_config(Composer(conf=conf_folder(), config_name="train").compose(overrides), folder)
        ratios = []
        for number in range(options.rounds):
            loops = [plain_loop, lightning_loop] if number % 2 == 0 else [lightning_loop, plain_loop]
            seconds = {loop: loop(config, folder, options.steps, options.skip) for loop in loops}
            ratios.append(seconds[lightning_loop] / seconds[plain_loop])
            print(
                f"round {number + 1}: plain {1e3 * seconds[plain_loop]:.1f} ms, Lightning "
                f"{1e3 * seconds[lightning_loop]:.1f} ms per step, ratio {ratios[-1]:.3f}",
                flush=True,
            )
    print(f"Lightning / plain: median {statistics.median(ratios):.3f}, range {min(ratios):.3f} to {max(ratios):.3f}")


if __name__ == "__main__":
    main()
