"""One training step of CLIP ViT-B/32 in fp32: vlp against open_clip, on the same weights, images and real captions.

    pip install 'vlp[benchmark]'
    python experiments/benchmarks/training_step.py [--flickr8k FOLDER] [--rounds 7] [--threads 2]

A step is forward, contrastive loss, backward and AdamW. Three programs alternate within each round, in another order in each:
open_clip as its users run it (captions padded to 77), open_clip with captions cut to the longest of the batch, and vlp. Each
round starts from the same weights and a new optimizer. Printed: seconds and losses of every round, and medians and ranges of
the ratios. Everything runs in one process with the same allocator and number of threads.
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


def read_batch(root: Path, batch_size: int, number: int) -> tuple[Tensor, list[str]]:
    """Batch `number` of Flickr8k's training split: uint8 photos [b 3 224 224] and one caption of each."""
    transform = EvalTransform(image_size=224, mode="clip")
    data = Karpathy(
        name="flickr8k",
        root=root,
        annotations="dataset_flickr8k.json",
        images="Images",
        transform={"train": transform, "eval": transform},
    )
    samples = [data.split("train")[index] for index in range(number * batch_size, (number + 1) * batch_size)]
    return torch.stack([transform(open_image(s.image)) for s in samples]), [s.captions[0] for s in samples]


def trimmed_forward(model: nn.Module, pixels: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """open_clip's forward for texts shorter than 77 tokens: the same modules, with positions and mask cut to their length."""
    length = tokens.shape[1]
    x = model.token_embedding(tokens) + model.positional_embedding[:length]
    x = model.ln_final(model.transformer(x, attn_mask=model.attn_mask[:length, :length]))
    x = x[torch.arange(len(x)), tokens.argmax(-1)] @ model.text_projection
    return model.encode_image(pixels, normalize=True), F.normalize(x, dim=-1), model.logit_scale.exp()


def open_clip_step(model: nn.Module, pixels: Tensor, tokens: Tensor) -> Step:
    """As open_clip_train does: ClipLoss, AdamW with its two parameter groups and defaults, the scale clamped."""

    def without_decay(name: str, parameter: nn.Parameter) -> bool:
        return parameter.ndim < 2 or any(part in name for part in ("bn", "ln", "bias", "logit_scale"))

    named = list(model.named_parameters())
    groups = [
        {"params": [parameter for name, parameter in named if without_decay(name, parameter)], "weight_decay": 0.0},
        {"params": [parameter for name, parameter in named if not without_decay(name, parameter)], "weight_decay": 0.2},
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
        model.clamp_parameters()
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
    open_clip_model = open_clip.create_model("ViT-B-32-quickgelu")
    open_clip_weights = {name: value.clone() for name, value in open_clip_model.state_dict().items()}
    with tempfile.TemporaryDirectory() as folder:
        torch.save(open_clip_weights, Path(folder) / "weights.pt")
        vlp_model = vlp.load(Path(folder) / "weights.pt").model.train()
    vlp_weights = {name: value.clone() for name, value in vlp_model.state_dict().items()}
    vlp_tokenizer, open_clip_tokenizer = ClipTokenizer(), open_clip.get_tokenizer("ViT-B-32-quickgelu")
    ratios: dict[str, list[float]] = {"padded": [], "trimmed": []}
    for number in range(options.rounds + 1):  # the first warms up
        pixels, captions = read_batch(options.flickr8k, options.batch, number)
        normalised = vlp_model.vision.normalize(Image(pixels=pixels))
        text, padded = vlp_tokenizer(captions), open_clip_tokenizer(captions)
        trimmed = padded[:, : text.ids.shape[1]]
        assert torch.equal(trimmed, text.ids), "the two tokenizers disagree"
        programs: dict[str, Callable[[], Step]] = {
            "padded": partial(open_clip_step, open_clip_model, normalised, padded),
            "trimmed": partial(open_clip_step, open_clip_model, normalised, trimmed),
            "vlp": partial(vlp_step, vlp_model, pixels, text),
        }
        names = list(programs)[number % 3 :] + list(programs)[: number % 3]
        seconds, losses = {}, {}
        for name in names:
            open_clip_model.load_state_dict(open_clip_weights)
            vlp_model.load_state_dict(vlp_weights)
            step = programs[name]()
            losses[name] = step()  # also allocates the optimizer's state, which later steps do not
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
