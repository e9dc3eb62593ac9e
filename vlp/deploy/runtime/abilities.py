"""Which verbs an artifact has by its graphs, and which part of the manifest each graph needs."""

from __future__ import annotations

from collections.abc import Collection, Mapping

VERBS: Mapping[str, tuple[frozenset[str], ...]] = {  # sets of graphs, any of which is enough
    verb: tuple(frozenset(names.split()) for names in alternatives)
    for verb, alternatives in {
        "embed_images": ("image", "image_places"),
        "embed_texts": ("text",),
        "similarity": ("image text", "image_places text"),
        "classify": ("classifier", "image text", "image_places text"),
        "match": ("pair",),
        "answer": ("answer", "answer_prefill step", "answer_prefill answer_step"),
        "caption": ("prefill step",),
        "detect": ("detect",),
        "segment": ("segment",),
        "ground": ("image_places text",),
    }.items()
}
SECTIONS: Mapping[str, tuple[str, ...]] = {  # fields of the manifest
    "text": ("tokenizer",),
    "image_places": ("places",),
    "pair": ("tokenizer",),
    "classifier": ("classifier",),
    "answer": ("tokenizer", "answers"),
    "answer_prefill": ("tokenizer", "answers", "decoder"),
    "prefill": ("tokenizer", "captioning", "decoder"),
    "detect": ("detection",),
    "segment": ("segmentation",),
}


def possible_verbs(graphs: Collection[str]) -> tuple[str, ...]:
    """In the order of VERBS."""
    present = set(graphs)
    return tuple(verb for verb, alternatives in VERBS.items() if any(each <= present for each in alternatives))
