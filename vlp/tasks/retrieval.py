"""Image-text retrieval: Recall@1/5/10 both ways over the whole split, by the cosine of the embeddings, and by a second stage.

The tie rule and the exactness are in `vlp.metrics.recall`. Each rank keeps its own share on the CPU; `compute` joins them,
so one process and many give the same figures whatever the sizes. With `rerank`, the fusion scores the best candidates of
each query (Li et al., arXiv:2107.07651, §4; vlp/models/reranking.py); the others stay behind them in their old order.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import torch
from einops import reduce
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vlp import distributed
from vlp.metrics.bootstrap import interval, resampled_means
from vlp.metrics.recall import chance_recall, count_ties, exact, expected_hit, rank_candidates, summarise
from vlp.metrics.retrieval_examples import examples, first_pairs
from vlp.models.features import caption_rows
from vlp.models.gallery import Gallery, scoring_device
from vlp.models.reranking import candidates, places, score_pairs
from vlp.models.vlm import VisionLanguageModel
from vlp.structures import Batch, Features
from vlp.system.errors import UserError
from vlp.system.progress import Progress
from vlp.tasks.base import Task


class Retrieval(Task):
    """rerank: how many candidates of each query the fusion scores ("all" = every pair); None = the cosine alone.
    head: the objective whose head scores them.  itc_weights: share of the cosine that is added to the head's logit (0: ALBEF, 1:
    BLIP); of a list, the one with the highest sum of recalls on val is kept, and used on test.
    """

    requires = ("image", "caption")

    def __init__(
        self,
        *,
        rerank: int | str | None = None,
        head: str = "itm",
        itc_weights: int | float | Sequence[int | float] = 0.0,
        weight: float | list[list[float]] = 0.0,
        sources: Sequence[str] | None = None,
    ) -> None:
        super().__init__(weight=weight, sources=sources)
        if (isinstance(rerank, str) and rerank != "all") or (isinstance(rerank, int) and rerank < 1):
            raise UserError(f'tasks.retrieval.rerank={rerank!r}: choose a number of candidates, "all" or null')
        self.rerank, self.head = rerank, head
        self.itc_weights = list(itc_weights) if isinstance(itc_weights, Sequence) else [itc_weights]
        self.mix: Tensor
        chosen = len(self.itc_weights) > 1  # by val, so that it travels in checkpoints; NaN until then
        self.register_buffer(
            "mix", torch.tensor(torch.nan if chosen else float(self.itc_weights[0])), persistent=chosen
        )
        self._mixed: str | None = None  # the source that the mix is chosen on
        self.needs: tuple[str, ...] = ("vision", "text")
        self.uses: tuple[str, ...] = ()
        if rerank is not None:
            self.needs += ("fusion",)
            self.uses += ("image", "text")
            self.heads: tuple[str, ...] = (head,)
        self.contrastive = rerank != "all" or any(self.itc_weights)
        if self.contrastive:
            self.needs += ("projection",)
            self.uses += ("image_embed", "text_embed")

    def reset(self) -> None:
        self._gallery = Gallery(tokens=self.rerank is not None)
        self._paths: list[str] = []
        self._captions: list[str] = []
        self._figures: dict[str, object] = {}
        self._choosing = True

    def prepare(self, model: VisionLanguageModel, tokenizer: Any, data: Any) -> None:
        self._choosing = len(self.itc_weights) > 1 and self.split == "val"
        if self._choosing and self._mixed not in (None, data.name):
            raise UserError(
                f"tasks.retrieval.itc_weights is chosen on one source, but {self._mixed} and {data.name} are measured: set "
                f"tasks.retrieval.sources=[{data.name}]"
            )
        self._mixed = data.name

    def update(self, model: VisionLanguageModel, batch: Batch, features: Features) -> None:
        image, text, owner = features.image_embed, features.text_embed, features.owner
        if owner is None or (self.contrastive and (image is None or text is None)):
            raise UserError("retrieval needs image_embed, text_embed and owner in the features of this batch")
        self._gallery.add(batch, features)
        if batch.raw is not None:
            self._paths += [str(sample.image) for sample in batch.raw]
            counts = owner.bincount(minlength=len(batch)).tolist()
            for sample, count in zip(batch.raw, counts, strict=True):
                if count > len(sample.captions):
                    raise UserError(f"sample {sample.sample} has {count} texts but {len(sample.captions)} captions")
                self._captions += sample.captions[:count]

    def compute(self, model: VisionLanguageModel) -> dict[str, float]:
        device = scoring_device(model)
        image_id, text_id = self._gallery.ids(device)
        figures: dict[str, float] = {}
        self._figures = {}
        if self.contrastive:
            image, text = self._gallery.embeds(device)
            to_text = rank_candidates(image, text, image_id, text_id)
            to_image = rank_candidates(text, image, text_id, image_id)
            first = summarise(to_text, to_image)
            figures = first if self.rerank is None else {f"itc_{name}": value for name, value in first.items()}
            self._picture(image, text, image_id, text_id, to_text, to_image)
        if self.rerank is not None:
            embeds = (image, text) if self.contrastive else None
            ties = (to_text, to_image) if self.contrastive else None
            figures = self._second_stage(model, device, image_id, text_id, embeds, ties) | figures
        figures |= {"images": float(len(image_id)), "captions": float(len(text_id))}
        chance = {name: value for name, value in chance_recall(image_id, text_id).items() if "rank" not in name}
        return figures | {f"chance_{name}": value for name, value in chance.items()}

    def _second_stage(
        self,
        model: VisionLanguageModel,
        device: torch.device,
        image_id: Int[Tensor, " n"],
        text_id: Int[Tensor, " m"],
        embeds: tuple[Float[Tensor, "n e"], Float[Tensor, "m e"]] | None,
        ties: tuple[Int[Tensor, "n 3"], Int[Tensor, "m 3"]] | None,
    ) -> dict[str, float]:
        """Recalls of the final ranking, and what it cost."""
        n, m = len(image_id), len(text_id)
        count = max(n, m) if self.rerank == "all" else int(self.rerank or 0)
        # equal candidates in the order of their ids: that of their coming depends on the number of ranks
        to_texts = _best(embeds, (n, m), count, text_id.argsort(stable=True))
        to_images = _best(embeds and embeds[::-1], (m, n), count, image_id.argsort(stable=True))
        pairs = torch.cat([to_texts, to_images.flip(1)]).unique(dim=0)  # sorted by image
        distinct, inverse = self._gallery.distinct(pairs)
        scores, seconds = self._scores(model, distinct, image_id, text_id, device)
        scores = scores[inverse]
        place = {"text": places(pairs, to_texts, m), "image": places(pairs, to_images.flip(1), m)}
        cosine = torch.zeros(len(pairs)) if embeds is None else _cosines(*embeds, distinct)[inverse]

        def final(mix: float) -> tuple[Int[Tensor, "q 3"], Int[Tensor, "p 3"]]:
            mixed = (scores + mix * cosine).double()
            to_text, to_image = (
                _reranked(
                    mixed[place[kind]].view(len(query), -1),
                    candidate[found[:, 1]].view(len(query), -1) == query[:, None],
                    old,
                )
                for kind, found, query, candidate, old in (
                    ("text", to_texts, image_id.cpu(), text_id.cpu(), None if ties is None else ties[0].cpu()),
                    ("image", to_images, text_id.cpu(), image_id.cpu(), None if ties is None else ties[1].cpu()),
                )
            )
            return to_text, to_image

        if self._choosing:
            tried = {mix: summarise(*final(mix))["rsum"] for mix in self.itc_weights}
            self.mix.fill_(max(tried, key=tried.__getitem__))
        if self.mix.isnan():
            raise UserError(
                f"tasks.retrieval.itc_weights={self.itc_weights} is chosen on val, which was not measured: give one number"
            )
        ranked = final(float(self.mix))
        figures = summarise(*ranked) | {"mix": float(self.mix), "rerank_pairs": float(len(distinct))}
        if ties is not None:
            figures |= _gains([old.cpu() for old in ties], ranked, [image_id.cpu(), text_id.cpu()])
        return figures | {"rerank_seconds": seconds, "rerank_pairs_per_second": len(distinct) / max(seconds, 1e-9)}

    def _scores(
        self,
        model: VisionLanguageModel,
        pairs: Int[Tensor, "p 2"],
        image_id: Int[Tensor, " n"],
        text_id: Int[Tensor, " m"],
        device: torch.device,
    ) -> tuple[Float[Tensor, " p"], float]:
        """Of all pairs, each rank for its own images; and the seconds of the slowest rank."""
        image, text = self._gallery.packed(device)
        mine = self._gallery.share(pairs, device)
        score = self.linked[self.head].score
        probe = mine[mine[:, 0] == 0]
        rate = [1.0]
        for _ in range(2):  # the first warms up
            score_pairs(
                model, score, image, text, probe, device=device, report=lambda d, _, s: rate.append(d / max(s, 1e-9))
            )
        speaking = distributed.rank() == 0 and len(mine) > 0
        if speaking:
            print(
                f"reranking {len(image_id):,} images and {len(text_id):,} texts: {len(pairs):,} pairs, "
                f"about {len(mine) / rate[-1]:.0f} s",
                file=sys.stderr,
                flush=True,
            )
        with Progress("pairs", show=speaking) as progress:
            spent = 0.0

            def report(done: int, _: int, seconds: float) -> None:
                nonlocal spent
                spent = seconds
                progress.update("reranking", done, len(mine))

            found = score_pairs(model, score, image, text, mine, device=device, report=report)
        slowest = float(distributed.gather(torch.tensor([spent], device=device)).max())
        return distributed.gather(found.to(device)).cpu(), slowest

    def _picture(
        self, image: Tensor, text: Tensor, image_id: Tensor, text_id: Tensor, to_text: Tensor, to_image: Tensor
    ) -> None:
        paths, captions = distributed.gather_lists(self._paths), distributed.gather_lists(self._captions)
        if len(paths) == len(image) and len(captions) == len(text):
            shown = first_pairs(image, text, image_id, text_id)
            self._figures |= {
                "image_to_text": examples(to_text, image, text, image_id, text_id, paths, captions),
                "text_to_image": examples(to_image, text, image, text_id, image_id, captions, paths),
                "similarity": {
                    "images": [paths[i] for i, _ in shown],
                    "captions": [captions[j] for _, j in shown],
                    "scores": (image[[i for i, _ in shown]] @ text[[j for _, j in shown]].T).cpu(),
                },
            }

    def figures(self) -> dict[str, object]:
        """With `batch.raw`: image_to_text and text_to_image, lists of {query,
        rank, results: [(path or caption, score, right), …]}, and similarity {images, captions, scores}.
        """
        return self._figures

    @torch.no_grad()
    def predict(self, model: VisionLanguageModel, batch: Batch) -> list[dict[str, object]]:
        """The cosine of each image with each of its own captions, and both embeddings."""
        if batch.image is None or batch.caption is None:
            raise UserError("retrieval needs batches with image and caption")
        rows, owner = caption_rows(batch)
        image = model.embed_image(model.encode_image(batch.image)).float()
        text = model.embed_text(model.encode_text(rows)).float()
        cosine = reduce(image[owner] * text, "r e -> r", "sum")
        return [
            {
                "id": int(batch.id[index]),
                "sample": int(batch.sample[index]),
                "scores": cosine[owner == index].tolist(),
                "image_embed": image[index].tolist(),
                "text_embed": text[owner == index].tolist(),
            }
            for index in range(len(batch))
        ]


def _best(
    embeds: tuple[Float[Tensor, "q e"], Float[Tensor, "c e"]] | None,
    sizes: tuple[int, int],
    count: int,
    order: Int[Tensor, " c"],
) -> Int[Tensor, "p 2"]:
    """(query, candidate) for the best `count` candidates of each query, all where there are no more."""
    queries, count = sizes[0], min(count, sizes[1])
    if count == sizes[1] or embeds is None:
        return torch.cartesian_prod(torch.arange(queries), torch.arange(sizes[1]))
    query, candidate = exact(*embeds)
    return candidates(lambda first, last: query[first:last] @ candidate.T, queries, count, order=order)


def _cosines(image: Float[Tensor, "n e"], text: Float[Tensor, "m e"], pairs: Int[Tensor, "p 2"]) -> Float[Tensor, " p"]:
    parts = [(image[part[:, 0]] * text[part[:, 1]]).sum(1).cpu() for part in pairs.to(image.device).split(2**16)]
    return torch.cat(parts)


def _reranked(
    scores: Float[Tensor, "q k"], right: Bool[Tensor, "q k"], old: Int[Tensor, "q 3"] | None
) -> Int[Tensor, "q 3"]:
    """G, T, P of each query: among its candidates where a right one is there, as before where none is."""
    if scores.isnan().any():
        raise UserError("the second stage's scores hold NaN: the model has diverged")
    if old is None:  # every candidate is there
        return count_ties(scores, right)
    hit = right.any(1)
    ties = old.clone()
    ties[hit] = count_ties(scores[hit], right[hit])
    return ties


def _gains(
    before: Sequence[Int[Tensor, "_ 3"]], after: Sequence[Int[Tensor, "_ 3"]], images: Sequence[Int[Tensor, " _"]]
) -> dict[str, float]:
    """Percent points of R@1 above the first stage, each way and both together, with paired bootstrap intervals over images.
    images: of each query."""
    figures: dict[str, float] = {}
    means: list[Tensor] = []
    for way, old, new, image in zip(("image_to_text", "text_to_image"), before, after, images, strict=True):
        difference = 100 * (expected_hit(new, 1) - expected_hit(old, 1))
        means.append(resampled_means(difference, image))
        figures |= _with_interval(f"{way}_r1_gain", float(difference.mean()), means[-1])
    both = figures["image_to_text_r1_gain"] + figures["text_to_image_r1_gain"]
    return figures | _with_interval("r1_gain", both, means[0] + means[1])


def _with_interval(name: str, value: float, means: Float[Tensor, " draws"]) -> dict[str, float]:
    low, high = interval(means)
    if distributed.rank() == 0:
        print(
            f"{name} over the first stage: {value:+.2f} points, 95 % interval {low:+.2f} to {high:+.2f}",
            file=sys.stderr,
        )
    return {name: value, f"{name}_low": low, f"{name}_high": high}
