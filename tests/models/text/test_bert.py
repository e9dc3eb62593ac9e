"""BERT against transformers' BertModel with the same weights."""

from __future__ import annotations

import pytest
import torch
import transformers
from torch import Tensor, nn

from vlp.models.text.bert import BertText
from vlp.structures import Text

LENGTHS = torch.tensor([7, 3, 9, 1])
MASK = torch.arange(9)[None] < LENGTHS[:, None]
IDS = torch.randint(1, 50, (4, 9), generator=torch.Generator().manual_seed(0)) * MASK


def bert_and_transformers_bert() -> tuple[BertText, nn.Module]:
    torch.manual_seed(0)
    ours = BertText(vocabulary_size=50, context_length=16, width=32, layers=3, heads=4, hidden_width=48)
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=48,
        max_position_embeddings=16, layer_norm_eps=1e-12,
    )  # fmt: skip
    theirs = transformers.BertModel(config, add_pooling_layer=False)
    for parameter in ours.parameters():
        nn.init.normal_(parameter, std=0.3)
    state: dict[str, Tensor] = {
        "embeddings.word_embeddings.weight": ours.embedding.weight,
        "embeddings.position_embeddings.weight": ours.positions.weight,
        "embeddings.token_type_embeddings.weight": ours.token_types.weight,  # type: ignore[union-attr]
        "embeddings.LayerNorm.weight": ours.norm.weight,
        "embeddings.LayerNorm.bias": ours.norm.bias,
    }
    pairs = {
        "attention.output.dense": "attention.out", "attention.output.LayerNorm": "norm1",
        "intermediate.dense": "mlp.fc1", "output.dense": "mlp.fc2", "output.LayerNorm": "norm2",
    }  # fmt: skip
    for index, block in enumerate(ours.blocks):
        for leaf in ("weight", "bias"):
            for part, value in zip(("query", "key", "value"), getattr(block.attention.qkv, leaf).chunk(3), strict=True):
                state[f"encoder.layer.{index}.attention.self.{part}.{leaf}"] = value
            for name, own in pairs.items():
                state[f"encoder.layer.{index}.{name}.{leaf}"] = getattr(block.get_submodule(own), leaf)
    theirs.load_state_dict(state)
    return ours.eval(), theirs.eval()


def test_states_of_real_tokens() -> None:
    ours, theirs = bert_and_transformers_bert()
    expected = theirs(input_ids=IDS, attention_mask=MASK.long()).last_hidden_state
    tokens = ours(Text(ids=IDS, mask=MASK))
    torch.testing.assert_close(tokens.states[MASK], expected[MASK], rtol=1e-5, atol=1e-5)
    assert not tokens.states[~MASK].any()
    torch.testing.assert_close(tokens.pooled, expected[:, 0], rtol=1e-5, atol=1e-5)


def test_padding_changes_nothing() -> None:
    ours, _ = bert_and_transformers_bert()
    long = ours(Text(ids=IDS, mask=MASK))
    for row, length in enumerate(LENGTHS.tolist()):
        alone = ours(Text(ids=IDS[row : row + 1, :length], mask=MASK[row : row + 1, :length]))
        torch.testing.assert_close(alone.states[0], long.states[row, :length], rtol=1e-5, atol=1e-5)


def test_mean_pooling_counts_real_tokens() -> None:
    ours, _ = bert_and_transformers_bert()
    ours.pool = "mean"
    tokens = ours(Text(ids=IDS, mask=MASK))
    torch.testing.assert_close(tokens.pooled[1], tokens.states[1, :3].mean(0))


def test_dropout_only_in_training() -> None:
    ours, _ = bert_and_transformers_bert()
    text = Text(ids=IDS, mask=MASK)
    assert torch.equal(ours(text).states, ours(text).states)
    ours.train()
    assert not torch.equal(ours(text).states, ours(text).states)


def test_a_text_that_is_too_long_is_an_error() -> None:
    ours, _ = bert_and_transformers_bert()
    with pytest.raises(ValueError, match="17 tokens for a tower of 16"):
        ours(Text(ids=torch.ones(1, 17, dtype=torch.int64), mask=torch.ones(1, 17, dtype=torch.bool)))
