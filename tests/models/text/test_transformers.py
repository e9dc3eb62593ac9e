from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers

from vlp.models.text.transformers import TransformersText
from vlp.models.vision.transformers import TransformersVision
from vlp.structures import Image, Text

BERT = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 40}
CLIP = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 40}


def test_a_local_folder_gives_the_pooler_output(tmp_path: Path) -> None:
    model = transformers.BertModel(transformers.BertConfig(**BERT)).eval()
    model.save_pretrained(tmp_path)
    tower = TransformersText(name=str(tmp_path)).eval()
    ids = torch.randint(0, 50, (2, 5))
    expected = model(input_ids=ids).pooler_output
    torch.testing.assert_close(tower(Text(ids=ids, mask=torch.ones(2, 5, dtype=torch.bool))).pooled, expected)


def test_a_two_tower_folder_gives_the_tower_that_is_asked_for(tmp_path: Path) -> None:
    text = CLIP | {"vocab_size": 50, "eos_token_id": 49, "bos_token_id": 48, "pad_token_id": 0}
    config = transformers.CLIPConfig(text_config=text, vision_config=CLIP | {"image_size": 32, "patch_size": 8})
    model = transformers.CLIPModel(config).eval()
    model.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text('{"image_mean": [0.1, 0.1, 0.1], "image_std": [0.2, 0.2, 0.2]}')
    vision = TransformersVision(name=str(tmp_path)).eval()
    pixels = torch.randn(2, 3, 32, 32)
    expected = model.vision_model(pixel_values=pixels).pooler_output
    torch.testing.assert_close(vision(Image(pixels=pixels)).pooled, expected)
    assert vision.normalize.std.flatten().tolist() == pytest.approx([0.2] * 3)
    ids = torch.tensor([[48, 3, 49]])
    tokens = TransformersText(name=str(tmp_path)).eval()(Text(ids=ids, mask=torch.ones_like(ids).bool()))
    torch.testing.assert_close(tokens.pooled, model.text_model(input_ids=ids).pooler_output)


def test_an_unreachable_hub_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # else it tries for half a minute
    with pytest.raises(FileNotFoundError, match=r"model\.text\.name=FOLDER"):
        TransformersText(name="nobody/no-such-bert")


def test_a_tokenizer_with_more_tokens_than_pretrained_embeddings_is_an_error(tmp_path: Path) -> None:
    transformers.BertModel(transformers.BertConfig(**BERT)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="60 tokens"):
        TransformersText(name=str(tmp_path), vocabulary_size=60)
    random = TransformersText(config={"model_type": "bert", **BERT}, weights=False, vocabulary_size=60)
    assert random.vocabulary_size == 60


def test_robertas_positions_start_after_its_padding() -> None:
    config = {"model_type": "roberta", **BERT, "max_position_embeddings": 12, "pad_token_id": 1}
    tower = TransformersText(config=config, weights=False).eval()
    assert tower.context_length == 10
    full = Text(ids=torch.full((1, 10), 5), mask=torch.ones(1, 10, dtype=torch.bool))
    assert tower(full).pooled.shape == (1, 32)
    with pytest.raises(ValueError, match="11 tokens for a tower of 10"):
        tower(Text(ids=torch.full((1, 11), 5), mask=torch.ones(1, 11, dtype=torch.bool)))


def test_a_damaged_folder_is_one_sentence_and_its_complete_format_is_read(tmp_path: Path) -> None:
    model = transformers.BertModel(transformers.BertConfig(**BERT)).eval()
    model.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:3000])
    with pytest.raises(ValueError, match=r"model\.safetensors is cut off"):
        TransformersText(name=str(tmp_path))
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.warns(UserWarning, match=r"pytorch_model\.bin is read, as .* is cut off"):
        tower = TransformersText(name=str(tmp_path))
    assert torch.equal(tower.backbone.embeddings.word_embeddings.weight, model.embeddings.word_embeddings.weight)
