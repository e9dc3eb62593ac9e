"""BLIP's image-grounded text encoder: the text tower's own embedding and layers, with their cross-attention to the image
enabled (Li et al., arXiv:2201.12086, §3.1; salesforce/BLIP models/med.py).

It starts from the text's ids again and has no parameters of its own.
"""

from __future__ import annotations

from torch import nn

from vlp.models.text.bert import BertText, replace_start_token
from vlp.structures import CrossAttentionCache, Text, Tokens
from vlp.system.errors import UserError


class GroundedFusion(nn.Module):
    """start_id: what the first token of every text becomes, which tells the layers that there is an image (BLIP's [ENC]);
    None = it stays.  pooled is the first token's state.
    """

    def __init__(self, *, image_width: int, text_width: int, start_id: int | None = None) -> None:
        super().__init__()
        self.image_width, self.width, self.start_id = image_width, text_width, start_id

    def share_text_layers(self, text: nn.Module | None) -> None:
        """Called by the model. The tower stays a part of the model only, so its weights have one name."""
        cross = getattr(text.blocks[0], "cross_attention", None) if isinstance(text, BertText) else None
        if not isinstance(text, BertText) or cross is None or cross.key_value.in_features != self.image_width:
            raise UserError(
                "this fusion uses the text tower's own layers: set model/text to a BertText with "
                f"model.text.memory_width={self.image_width}"
            )
        self._text = (text,)  # in a tuple, so that it is no submodule

    @property
    def text(self) -> BertText:
        return self._text[0]

    def project_memory(self, image: Tokens) -> CrossAttentionCache:
        layers = [block.cross_attention.project_memory(image.states) for block in self.text.blocks]  # type: ignore[union-attr, operator]
        return CrossAttentionCache(layers=layers, mask=image.mask)

    def forward(self, text: Tokens, image: Tokens | CrossAttentionCache) -> Tokens:
        """States of padding are zero.  image: of as many rows as text."""
        assert text.ids is not None, "this fusion starts from the text's ids"
        mask = text.ids.new_ones(text.ids.shape).bool() if text.mask is None else text.mask
        memory = image if isinstance(image, CrossAttentionCache) else self.project_memory(image)
        return self.text(Text(ids=replace_start_token(text.ids, self.start_id), mask=mask), memory)
