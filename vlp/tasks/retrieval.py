"""Image-text retrieval: Recall@1/5/10 in both directions over a full split, by cosine and optionally by a second stage.

The tie rule and the exact arithmetic are in `vlp.metrics.recall`. Each rank keeps its own share on the CPU and `compute`
joins them, so the figures do not depend on the number of processes or the batch sizes. With `rerank`, the fusion scores the
best candidates of each query (Li et al., arXiv:2107.07651, §4; vlp/models/reranking.py); the others keep their order behind
them.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import torch
from einops import reduce
from jaxtyping import Float, Int
from torch import Tensor

from vlp import distributed
from vlp.metrics.bootstrap import recall_gains
from vlp.metrics.recall import chance_recall, rank_candidates, summarise_recall, to_exact_integers, update_ties
from vlp.metrics.retrieval_examples import first_image_caption_pairs, select_examples
from vlp.models.embeddings import cut
from vlp.models.features import flatten_captions
from vlp.models.gallery import Gallery, scoring_device
from vlp.models.reranking import candidate_pairs, pair_positions, score_pairs
from vlp.models.vlm import VisionLanguageModel
from vlp.structures import Batch, Features, require_finite
from vlp.system.errors import UserError
from vlp.system.progress import Progress
from vlp.tasks.base import Task


class Retrieval(Task):
    """rerank: how many candidates of each query the fusion scores ("all" = every pair); None = the cosine alone.
    head: the objective whose head scores them.  itc_weights: factor of the cosine that is added to the head's logit (0: ALBEF,
    1: BLIP); from a list, the one with the highest sum of recalls on val is selected, and used on test.
    dims: the cosine is also measured on the first d numbers of the embeddings, of unit length again, for each d: figures that
    begin with `first_<d>_`.
    """

    requires = ("image", "caption")

    def __init__(
        self,
        *,
        rerank: int | str | None = None,
        head: str = "itm",
        itc_weights: int | float | Sequence[int | float] = 0.0,
        dims: Sequence[int] = (),
        weight: float | list[list[float]] = 0.0,
        sources: Sequence[str] | None = None,
    ) -> None:
        super().__init__(weight=weight, sources=sources)
        if (isinstance(rerank, str) and rerank != "all") or (isinstance(rerank, int) and rerank < 1):
            raise UserError(f'tasks.retrieval.rerank={rerank!r}: choose a number of candidates, "all" or null')
        self.rerank, self.head = rerank, head
        self.itc_weights = list(itc_weights) if isinstance(itc_weights, Sequence) else [itc_weights]
        self.mix: Tensor  # the weight that is used
        selected = len(self.itc_weights) > 1  # on val, so checkpoints keep it; NaN until then
        initial = torch.nan if selected else float(self.itc_weights[0])
        self.register_buffer("mix", torch.tensor(initial), persistent=selected)
        self._source: str | None = None  # that the weight is selected on
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
        self.dims = tuple(dims)
        if any(isinstance(dim, bool) or dim < 1 for dim in dims) or (dims and not self.contrastive):
            raise UserError(f"tasks.retrieval.dims={list(dims)}: give widths above 0 of a cosine that is measured")

    def reset(self) -> None:
        self._gallery = Gallery(tokens=self.rerank is not None)
        self._paths: list[str] = []
        self._captions: list[str] = []
        self._selects_weight = True

    def prepare(self, model: VisionLanguageModel, tokenizer: Any, data: Any) -> None:
        self._selects_weight = len(self.itc_weights) > 1 and self.split == "val"
        if self._selects_weight and self._source not in (None, data.name):
            raise UserError(
                f"tasks.retrieval.itc_weights is selected on one source, but {self._source} and {data.name} are measured: set "
                f"tasks.retrieval.sources=[{data.name}]"
            )
        self._source = data.name

    def update(self, model: VisionLanguageModel, batch: Batch, features: Features) -> None:
        image, text, owner = features.image_embed, features.text_embed, features.owner
        if owner is None or (self.contrastive and (image is None or text is None)):
            raise UserError("retrieval needs image_embed, text_embed and owner in the features of each batch")
        self._gallery.add(batch, features)
        if batch.raw is not None:
            self._paths += [str(sample.image) for sample in batch.raw]
            counts = owner.bincount(minlength=len(batch)).tolist()
            for sample, count in zip(batch.raw, counts, strict=True):
                if count > len(sample.captions):
                    raise UserError(f"sample {sample.sample} has {count} texts but {len(sample.captions)} captions")
                self._captions += sample.captions[:count]

    def compute(self, model: VisionLanguageModel) -> dict[str, float | None]:
        device = scoring_device(model)
        image_id, text_id = self._gallery.gather_ids(device)
        figures: dict[str, float | None] = {}
        self._figures = {}
        if self.contrastive:
            image, text = self._gallery.gather_embeddings(device)
            to_text = rank_candidates(image, text, image_id, text_id)
            to_image = rank_candidates(text, image, text_id, image_id)
            first = summarise_recall(to_text, to_image)
            figures |= first if self.rerank is None else {f"itc_{name}": value for name, value in first.items()}
            self._collect_examples(image, text, image_id, text_id, to_text, to_image)
            for dim in self.dims:
                figures |= self._recall_of_cut(dim, image, text, image_id, text_id)
        if self.rerank is not None:
            embeds = (image, text) if self.contrastive else None
            ties = (to_text, to_image) if self.contrastive else None
            figures = self._rerank(model, device, image_id, text_id, embeds, ties) | figures
        figures |= {"images": float(len(image_id)), "captions": float(len(text_id))}
        chance = {name: value for name, value in chance_recall(image_id, text_id).items() if "rank" not in name}
        return figures | {f"chance_{name}": value for name, value in chance.items()}

    def _recall_of_cut(
        self, dim: int, image: Tensor, text: Tensor, image_id: Tensor, text_id: Tensor
    ) -> dict[str, float | None]:
        if dim > image.shape[1]:
            raise UserError(f"tasks.retrieval.dims={list(self.dims)}: the joint space has {image.shape[1]} numbers")
        image, text = cut(image, dim), cut(text, dim)
        recall = summarise_recall(
            rank_candidates(image, text, image_id, text_id), rank_candidates(text, image, text_id, image_id)
        )
        return {f"first_{dim}_{name}": value for name, value in recall.items() if "rank" not in name}

    def _rerank(
        self,
        model: VisionLanguageModel,
        device: torch.device,
        image_id: Int[Tensor, " n"],
        text_id: Int[Tensor, " m"],
        embeds: tuple[Float[Tensor, "n e"], Float[Tensor, "m e"]] | None,
        ties: tuple[Int[Tensor, "n 3"], Int[Tensor, "m 3"]] | None,
    ) -> dict[str, float | None]:
        """Recalls of the final ranking, its gain over the first stage, and its cost.  embeds: of images and texts; ties: of the
        first stage in both directions; None without a first stage."""
        n, m = len(image_id), len(text_id)
        count = max(n, m) if self.rerank == "all" else int(self.rerank or 0)
        # equal candidates are ordered by their ids, since the order of the rows depends on the number of ranks
        to_texts = _best_candidates(embeds, (n, m), count, text_id.argsort(stable=True))
        to_images = _best_candidates(embeds and embeds[::-1], (m, n), count, image_id.argsort(stable=True))
        pairs = torch.cat([to_texts, to_images.flip(1)]).unique(dim=0)  # sorted by image
        distinct, inverse = self._gallery.unique_input_pairs(pairs)
        scores, seconds = self._score_candidates(model, distinct, image_id, text_id, device)
        scores = scores[inverse]
        cosine = torch.zeros(len(pairs)) if embeds is None else _pair_cosines(*embeds, distinct)[inverse]
        image_id, text_id = image_id.cpu(), text_id.cpu()
        first_stage = (None, None) if ties is None else (ties[0].cpu(), ties[1].cpu())
        directions = (
            (pair_positions(pairs, to_texts, m), text_id[to_texts[:, 1]], image_id, first_stage[0]),
            (pair_positions(pairs, to_images.flip(1), m), image_id[to_images[:, 1]], text_id, first_stage[1]),
        )

        def final_ties(itc_weight: float) -> tuple[Int[Tensor, "q 3"], Int[Tensor, "p 3"]]:
            """In both directions."""
            total = (scores + itc_weight * cosine).double()
            to_text, to_image = (
                update_ties(
                    total[position].view(len(query_id), -1),
                    candidate_id.view(len(query_id), -1) == query_id[:, None],
                    before,
                )
                for position, candidate_id, query_id, before in directions
            )
            return to_text, to_image

        if self._selects_weight:
            rsums = {itc_weight: summarise_recall(*final_ties(itc_weight))["rsum"] for itc_weight in self.itc_weights}
            self.mix.fill_(max(rsums, key=rsums.__getitem__))
        if self.mix.isnan():
            raise UserError(
                f"tasks.retrieval.itc_weights={self.itc_weights} is selected on val, which was not measured: give one number"
            )
        after = final_ties(float(self.mix))
        figures: dict[str, float | None] = {"mix": float(self.mix), "rerank_pairs": float(len(distinct))}
        figures |= summarise_recall(*after)
        if ties is not None:
            figures |= recall_gains([old.cpu() for old in ties], after, [image_id, text_id])
        return figures | {"rerank_seconds": seconds, "rerank_pairs_per_second": len(distinct) / max(seconds, 1e-9)}

    def _score_candidates(
        self,
        model: VisionLanguageModel,
        pairs: Int[Tensor, "p 2"],
        image_id: Int[Tensor, " n"],
        text_id: Int[Tensor, " m"],
        device: torch.device,
    ) -> tuple[Float[Tensor, " p"], float]:
        """The head's score of each (image, text) pair, each rank for its own images; and the seconds of the slowest rank."""
        image, text = self._gallery.gather_tokens(device)
        own_pairs = self._gallery.pairs_of_this_rank(pairs, device)
        score = self.linked[self.head].pair_score
        first_image = own_pairs[own_pairs[:, 0] == 0]
        rates = [1.0]  # pairs per second
        for _ in range(2):  # the first run is a warm-up
            with self.model_precision():
                score_pairs(
                    model, score, image, text, first_image, device=device,
                    report=lambda done, _, seconds: rates.append(done / max(seconds, 1e-9)),
                )  # fmt: skip
        show = distributed.rank() == 0 and len(own_pairs) > 0
        if show:
            print(
                f"reranking {len(image_id):,} images and {len(text_id):,} texts: {len(pairs):,} pairs, "
                f"about {len(own_pairs) / rates[-1]:.0f} s",
                file=sys.stderr,
                flush=True,
            )
        with Progress("pairs", show=show) as progress:
            duration = 0.0

            def report(done: int, _: int, seconds: float) -> None:
                nonlocal duration
                duration = seconds
                progress.update("reranking", done, len(own_pairs))

            with self.model_precision():
                scores = score_pairs(model, score, image, text, own_pairs, device=device, report=report)
        slowest = float(distributed.gather(torch.tensor([duration], device=device)).max())
        return distributed.gather(scores.to(device)).cpu(), slowest

    def _collect_examples(
        self, image: Tensor, text: Tensor, image_id: Tensor, text_id: Tensor, to_text: Tensor, to_image: Tensor
    ) -> None:
        """figures(), with `batch.raw`: image_to_text and text_to_image, lists of {query, rank, results: [(path or caption,
        score, correct), …]}, and similarity {images, captions, scores}."""
        paths, captions = distributed.gather_lists(self._paths), distributed.gather_lists(self._captions)
        if len(paths) == len(image) and len(captions) == len(text):
            pairs = first_image_caption_pairs(image_id, text_id)
            images, texts = [i for i, _ in pairs], [j for _, j in pairs]
            self._figures |= {
                "image_to_text": select_examples(to_text, image, text, image_id, text_id, paths, captions),
                "text_to_image": select_examples(to_image, text, image, text_id, image_id, captions, paths),
                "similarity": {
                    "images": [paths[i] for i in images],
                    "captions": [captions[j] for j in texts],
                    "scores": (image[images] @ text[texts].T).cpu(),
                },
            }

    @torch.no_grad()
    def predict(self, model: VisionLanguageModel, batch: Batch) -> list[dict[str, object]]:
        """The cosine of each image with each of its own captions, and both embeddings."""
        if batch.image is None or batch.caption is None:
            raise UserError("retrieval needs batches with image and caption")
        rows, owner = flatten_captions(batch)
        image = require_finite(model.embed_image(model.encode_image(batch.image)), "embeddings").float()
        text = require_finite(model.embed_text(model.encode_text(rows)), "embeddings").float()
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


def _best_candidates(
    embeds: tuple[Float[Tensor, "q e"], Float[Tensor, "c e"]] | None,
    sizes: tuple[int, int],
    count: int,
    order: Int[Tensor, " c"],
) -> Int[Tensor, "p 2"]:
    """(query, candidate) for the best `count` candidates of each query, or all.  order: of equal ones."""
    queries, count = sizes[0], min(count, sizes[1])
    if count == sizes[1] or embeds is None:
        return torch.cartesian_prod(torch.arange(queries), torch.arange(sizes[1]))
    query, candidate = to_exact_integers(*embeds)
    return candidate_pairs(lambda first, last: query[first:last] @ candidate.T, queries, count, order=order)


def _pair_cosines(
    image: Float[Tensor, "n e"], text: Float[Tensor, "m e"], pairs: Int[Tensor, "p 2"]
) -> Float[Tensor, " p"]:
    parts = [(image[part[:, 0]] * text[part[:, 1]]).sum(1).cpu() for part in pairs.to(image.device).split(2**16)]
    return torch.cat(parts)
