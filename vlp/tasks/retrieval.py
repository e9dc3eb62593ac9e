"""Image-text retrieval by the cosine of the embeddings: Recall@1/5/10 both ways over the whole split.

The tie rule and the exactness are in `vlp.metrics.recall`. Each rank keeps its own share on the CPU; `compute`
joins them, so one process and many give the same figures whatever the sizes.
"""

from __future__ import annotations

from itertools import chain

import torch
from einops import reduce
from jaxtyping import Float, Int
from torch import Tensor

from vlp import distributed
from vlp.metrics.recall import chance_recall, rank_candidates, summarise
from vlp.models.vlm import VisionLanguageModel
from vlp.structures import Batch, Features
from vlp.tasks.base import Task

SHOWN = 4  # queries of each kind (right, wrong) and direction that figures() holds
MATRIX = 12  # rows and columns of its similarity matrix


class Retrieval(Task):
    requires = ("image", "caption")
    needs = ("vision", "text", "projection")
    uses = ("image_embed", "text_embed")

    def reset(self) -> None:
        self._image: list[Tensor] = []
        self._text: list[Tensor] = []
        self._id: list[Tensor] = []
        self._text_id: list[Tensor] = []
        self._paths: list[str] = []
        self._captions: list[str] = []
        self._figures: dict[str, object] = {}

    def update(self, model: VisionLanguageModel, batch: Batch, features: Features) -> None:
        image, text, owner = features.image_embed, features.text_embed, features.owner
        if image is None or text is None or owner is None:
            raise ValueError("retrieval needs image_embed, text_embed and owner in the features of this batch")
        self._image.append(image.detach().float().cpu())
        self._text.append(text.detach().float().cpu())
        self._id.append(batch.id.cpu())
        self._text_id.append(batch.id[owner].cpu())
        if batch.raw is not None:
            self._paths += [str(sample.image) for sample in batch.raw]
            counts = owner.bincount(minlength=len(batch)).tolist()
            for sample, count in zip(batch.raw, counts, strict=True):
                if count > len(sample.captions):
                    raise ValueError(f"sample {sample.sample} has {count} texts but {len(sample.captions)} captions")
                self._captions += sample.captions[:count]

    def compute(self, model: VisionLanguageModel) -> dict[str, float]:
        device = next((p.device for p in model.parameters() if p.device.type != "mps"), torch.device("cpu"))
        image, text = _join(self._image, device), _join(self._text, device)
        image_id, text_id = _join_ids(self._id, device), _join_ids(self._text_id, device)
        to_text = rank_candidates(image, text, image_id, text_id)
        to_image = rank_candidates(text, image, text_id, image_id)
        figures = summarise(to_text, to_image) | {"images": float(len(image)), "captions": float(len(text))}
        paths = list(chain.from_iterable(distributed.gather_objects(self._paths)))
        captions = list(chain.from_iterable(distributed.gather_objects(self._captions)))
        chance = {name: value for name, value in chance_recall(image_id, text_id).items() if "rank" not in name}
        figures |= {f"chance_{name}": value for name, value in chance.items()}
        self._figures = {}
        if len(paths) == len(image) and len(captions) == len(text):
            shown = _matrix(image, text, image_id, text_id)
            self._figures |= {
                "image_to_text": _examples(to_text, image, text, image_id, text_id, paths, captions),
                "text_to_image": _examples(to_image, text, image, text_id, image_id, captions, paths),
                "similarity": {
                    "images": [paths[i] for i, _ in shown],
                    "captions": [captions[j] for _, j in shown],
                    "scores": (image[[i for i, _ in shown]] @ text[[j for _, j in shown]].T).cpu(),
                },
            }
        return figures

    def figures(self) -> dict[str, object]:
        """With `batch.raw`: image_to_text and text_to_image, lists of {query,
        rank, results: [(path or caption, score, right), …]}, and similarity {images, captions, scores}.
        """
        return self._figures

    @torch.no_grad()
    def predict(self, model: VisionLanguageModel, batch: Batch) -> list[dict[str, object]]:
        """The cosine of each image with each of its own captions, and both embeddings."""
        if batch.image is None or batch.caption is None:
            raise ValueError("retrieval needs batches with image and caption")
        caption = batch.caption
        if caption.ids.ndim == 3:
            rows, owner = caption.real_rows()
        else:
            rows, owner = caption, torch.arange(len(batch), device=caption.ids.device)
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


def _join(parts: list[Float[Tensor, "_ e"]], device: torch.device) -> Float[Tensor, "n e"]:
    """All ranks' rows; a rank that saw no batch learns the width from the others, since gathering needs it."""
    width = distributed.gather(torch.tensor([parts[0].shape[1] if parts else 0], device=device)).max()
    own = torch.cat(parts) if parts else torch.zeros(0, int(width))
    return distributed.gather(own.to(device))


def _join_ids(parts: list[Int[Tensor, " _"]], device: torch.device) -> Int[Tensor, " n"]:
    own = torch.cat(parts) if parts else torch.zeros(0, dtype=torch.int64)
    return distributed.gather(own.to(device))


def _examples(
    ties: Tensor, query: Tensor, candidate: Tensor, query_id: Tensor, candidate_id: Tensor,
    query_names: list[str], candidate_names: list[str],
) -> list[dict[str, object]]:  # fmt: skip
    """The first few queries that hit at rank 1 and the first few that miss, with their five best candidates."""
    above = ties[:, 0]
    chosen = torch.cat([(above == 0).nonzero()[:SHOWN, 0], (above > 0).nonzero()[:SHOWN, 0]])
    scores, best = (query[chosen] @ candidate.T).topk(min(5, len(candidate)))
    right = candidate_id[best] == query_id[chosen][:, None]
    return [
        {
            "query": query_names[row],
            "rank": rank + 1,
            "results": [(candidate_names[j], s, r) for j, s, r in zip(*found, strict=True)],
        }
        for row, rank, *found in zip(
            chosen.tolist(), above[chosen].tolist(), best.tolist(), scores.tolist(), right.tolist(), strict=True
        )
    ]


def _matrix(image: Tensor, text: Tensor, image_id: Tensor, text_id: Tensor) -> list[tuple[int, int]]:
    """The first images of different ids, each with its first caption."""
    pairs: dict[int, tuple[int, int]] = {}
    for row, key in enumerate(image_id.tolist()):
        if key not in pairs:
            pairs[key] = (row, int((text_id == key).nonzero()[0]))
        if len(pairs) == MATRIX:
            break
    return list(pairs.values())
