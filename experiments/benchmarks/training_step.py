"""One training step of CLIP ViT-B/32 in fp32: vlp beside open_clip, on the same weights, images and real captions.

    pip install 'vlp[benchmark]'
    python experiments/benchmarks/training_step.py [--flickr8k FOLDER] [--rounds 7] [--threads 2]

A step is forward, contrastive loss, backward and AdamW. The three sides alternate within each round and take their
places in turn: open_clip as its users run it (captions padded to 77), open_clip handed captions cut to the longest of
the batch, and vlp. Each round starts from the same weights and a fresh optimiser. Printed: seconds and ratios of every
round, their medians and ranges, and the losses. Everything is in one process with the same allocator and threads.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import open_clip
import torch
import torch.nn.functional as F
from open_clip.loss import ClipLoss
from torch import Tensor, nn

import vlp
from vlp.data.images import open_image
from vlp.data.transforms import EvalTransform
from vlp.datasets.karpathy import Karpathy
from vlp.launch.config.compose import data_root
from vlp.models.features import compute_features
from vlp.models.vlm import VisionLanguageModel
from vlp.objectives.itc import ITC
from vlp.structures import Batch, Image, Text
from vlp.tokenizers.clip import ClipTokenizer
from vlp.training.optimizer import AdamW

Step = Callable[[], float]


def photos_and_captions(root: Path, batch: int, round_: int) -> tuple[Tensor, list[str]]:
    """uint8 photos [b 3 224 224] and one caption each, of another part of the training split in each round."""
    transform = EvalTransform(image_size=224, mode="clip")
    data = Karpathy(
        name="flickr8k",
        root=root,
        annotations="dataset_flickr8k.json",
        images="Images",
        transform={"train": transform, "eval": transform},
    )
    samples = [data.split("train")[index] for index in range(round_ * batch, (round_ + 1) * batch)]
    return torch.stack([transform(open_image(s.image)) for s in samples]), [s.captions[0] for s in samples]


def trimmed_forward(model: nn.Module, pixels: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """open_clip's forward, which takes texts of 77 tokens only, on shorter ones: the same modules, positions and mask cut."""
    length = tokens.shape[1]
    x = model.token_embedding(tokens) + model.positional_embedding[:length]
    x = model.ln_final(model.transformer(x, attn_mask=model.attn_mask[:length, :length]))
    x = x[torch.arange(len(x)), tokens.argmax(-1)] @ model.text_projection
    return model.encode_image(pixels, normalize=True), F.normalize(x, dim=-1), model.logit_scale.exp()


def open_clip_step(model: nn.Module, pixels: Tensor, tokens: Tensor) -> Step:
    """As open_clip_train runs it: ClipLoss, AdamW with its two parameter groups and defaults, the scale clamped."""
    excluded = lambda n, p: p.ndim < 2 or "bn" in n or "ln" in n or "bias" in n or "logit_scale" in n  # noqa: E731
    named = list(model.named_parameters())
    groups = [
        {"params": [p for n, p in named if excluded(n, p)], "weight_decay": 0.0},
        {"params": [p for n, p in named if not excluded(n, p)], "weight_decay": 0.2},
    ]
    optimizer = torch.optim.AdamW(groups, lr=5e-4, betas=(0.9, 0.98), eps=1e-6)
    loss_function = ClipLoss()

    def step() -> float:
        optimizer.zero_grad()
        forward = model if tokens.shape[1] == model.context_length else partial(trimmed_forward, model)
        image, text, scale = forward(pixels, tokens)
        loss = loss_function(image, text, scale)
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, 4.6052)
        return loss.item()

    return step


def vlp_step(model: VisionLanguageModel, pixels: Tensor, text: Text) -> Step:
    objective = ITC()
    optimizer = AdamW(lr=5e-4)(model)
    index = torch.arange(len(pixels))
    batch = Batch(id=index, sample=index, seed=index, image=Image(pixels=pixels), caption=text)

    def step() -> float:
        optimizer.zero_grad()
        loss = objective(model, batch, compute_features(model, batch, objective.uses)).value
        loss.backward()
        optimizer.step()
        model.constrain()
        return loss.item()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flickr8k", type=Path, default=Path(data_root("flickr8k")))
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    theirs = open_clip.create_model("ViT-B-32-quickgelu")
    weights = {name: value.clone() for name, value in theirs.state_dict().items()}
    with tempfile.TemporaryDirectory() as folder:
        torch.save(weights, Path(folder) / "weights.pt")
        ours = vlp.load(Path(folder) / "weights.pt").model.train()
    start = {name: value.clone() for name, value in ours.state_dict().items()}
    tokenizer, open_tokenizer = ClipTokenizer(), open_clip.get_tokenizer("ViT-B-32-quickgelu")
    ratios: dict[str, list[float]] = {"padded": [], "trimmed": []}
    for number in range(options.rounds + 1):  # the first warms up
        pixels, captions = photos_and_captions(options.flickr8k, options.batch, number)
        normalised = ours.vision.normalize(Image(pixels=pixels))
        text, padded = tokenizer(captions), open_tokenizer(captions)
        trimmed = padded[:, : text.ids.shape[1]]
        assert torch.equal(trimmed, text.ids), "the two tokenizers disagree"
        sides: dict[str, Callable[[], Step]] = {
            "padded": partial(open_clip_step, theirs, normalised, padded),
            "trimmed": partial(open_clip_step, theirs, normalised, trimmed),
            "vlp": partial(vlp_step, ours, pixels, text),
        }
        names = list(sides)[number % 3 :] + list(sides)[: number % 3]
        seconds, losses = {}, {}
        for name in names:
            theirs.load_state_dict(weights)
            ours.load_state_dict(start)
            step = sides[name]()
            losses[name] = step()  # also fills the optimiser's state, which only a first step has to do
            begin = time.perf_counter()
            step()
            seconds[name] = time.perf_counter() - begin
        difference = max(abs(losses["vlp"] - losses[name]) for name in ratios)
        assert difference < 1e-4, f"losses differ by {difference}"
        if number:
            for name in ratios:
                ratios[name].append(seconds[name] / seconds["vlp"])
            print(
                f"round {number}: open_clip {seconds['padded']:.2f} s, trimmed {seconds['trimmed']:.2f} s, "
                f"vlp {seconds['vlp']:.2f} s; loss {losses['padded']:.6f}, {losses['vlp']:.6f}",
                flush=True,
            )
    for name, values in ratios.items():
        print(
            f"open_clip {name} / vlp: median {statistics.median(values):.2f}, range {min(values):.2f} to {max(values):.2f}"
        )


if __name__ == "__main__":
    main()
