"""Masked language modelling: what is masked, how often, that the image helps, and two processes against one."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from tests.objectives.contrast import CASES, assert_two_processes_equal_one, make
from tests.towers import toy_batch, toy_model
from vlp.models.features import compute_features
from vlp.models.momentum import MomentumCopy
from vlp.objectives.mlm import MLM, choose_masked_tokens, corrupt_tokens, rare_word_mask_probs
from vlp.structures import Text
from vlp.tokenizers.trained import TrainedTokenizer

SPECIAL = torch.arange(50) < 3
TEXT = Text(
    ids=torch.randint(3, 49, (400, 30), generator=torch.Generator().manual_seed(0)), mask=torch.ones(400, 30) > 0
)
SEEDS = torch.arange(400)


def test_shares_of_chosen_masked_and_replaced_tokens() -> None:
    text = Text(ids=TEXT.ids.clone(), mask=torch.arange(30)[None].expand(400, -1) < 25)
    text.ids[:, 0] = 1
    chosen = choose_masked_tokens(text, SEEDS, SPECIAL, None, 0.15)
    assert not chosen[:, 0].any()
    assert not chosen[:, 25:].any()
    assert abs(chosen[:, 1:25].float().mean() - 0.15) < 0.01
    masked = corrupt_tokens(text, chosen, SEEDS, 49, 50)
    assert torch.equal(masked.ids[~chosen], text.ids[~chosen])
    changed = masked.ids[chosen] != text.ids[chosen]
    assert abs((masked.ids[chosen] == 49).float().mean() - 0.802) < 0.02  # one in fifty random ids is the mask
    assert abs(changed.float().mean() - 0.898) < 0.02


def test_whole_words_are_chosen_together() -> None:
    continues = torch.arange(50) >= 25
    text = Text(ids=TEXT.ids.clone(), mask=TEXT.mask)
    text.ids[:, 0] = 1
    chosen = choose_masked_tokens(text, SEEDS, SPECIAL, continues, 0.3)
    inside = continues[text.ids[:, 2:]]
    assert torch.equal(chosen[:, 2:][inside], chosen[:, 1:-1][inside])
    assert abs(chosen[:, 1:].float().mean() - 0.3) < 0.03


def test_rare_tokens_are_chosen_more_often() -> None:
    """Sixteen times rarer, four times as often by r = 1/2; the mean over all occurrences stays, and no token is always gone."""
    counts = torch.tensor([1600.0, 400.0, 100.0, 1.0, 0.0])
    shares = rare_word_mask_probs(counts, 0.1, 0.5)
    assert torch.allclose(shares[2] / shares[0], torch.tensor(4.0))
    assert abs((counts * shares).sum() / counts.sum() - 0.1) < 1e-4
    assert shares[3] == shares[4] == 0.9
    assert torch.allclose(rare_word_mask_probs(counts, 0.15, 0.0), torch.tensor(0.15))


def test_each_token_has_its_own_share_and_a_word_that_of_its_first_piece() -> None:
    own = torch.where(torch.arange(50) < 25, 0.6, 0.1)
    chosen = choose_masked_tokens(TEXT, SEEDS, SPECIAL, None, own)
    assert abs(chosen[TEXT.ids < 25].float().mean() - 0.6) < 0.02
    assert abs(chosen[TEXT.ids >= 25].float().mean() - 0.1) < 0.02
    continues = torch.arange(50) >= 25
    pieces = choose_masked_tokens(TEXT, SEEDS, SPECIAL, continues, own)[:, 1:]
    after_a_start = continues[TEXT.ids[:, 1:]] & ~continues[TEXT.ids[:, :-1]]
    assert abs(pieces[after_a_start].float().mean() - 0.6) < 0.02


def test_shares_are_counted_from_the_training_captions() -> None:
    tokenizer = TrainedTokenizer(size=300, context_length=20)
    captions = ["a red circle", "a red square", "a blue circle"] * 20
    tokenizer.train(captions)
    objective = MLM(width=8, vocabulary_size=300, mask_prob=0.3, rare_word_exponent=1.0)
    objective.prepare(toy_model(), tokenizer, SimpleNamespace(train_captions=lambda: iter(captions)))
    article, red, blue = (objective.mask_probs[tokenizer.encode([word])[0][-1]] for word in ("a", "a red", "a blue"))
    assert article < red < blue
    with pytest.raises(ValueError, match="rare_word_exponent=-1"):
        MLM(width=8, vocabulary_size=300, rare_word_exponent=-1.0)


def test_longer_padding_changes_no_draw() -> None:
    padded = Text(ids=F.pad(TEXT.ids, (0, 7)), mask=F.pad(TEXT.mask, (0, 7)))
    chosen = choose_masked_tokens(padded, SEEDS, SPECIAL, None, 0.15)
    assert torch.equal(chosen[:, :30], choose_masked_tokens(TEXT, SEEDS, SPECIAL, None, 0.15))
    assert torch.equal(
        corrupt_tokens(padded, chosen, SEEDS, 49, 50).ids[:, :30],
        corrupt_tokens(TEXT, chosen[:, :30], SEEDS, 49, 50).ids,
    )


def test_the_mean_is_over_chosen_tokens() -> None:
    batch, model, objective = toy_batch(), toy_model(fused=True).double(), make("mlm").double()
    loss = objective(model, batch, compute_features(model, batch, objective.uses))
    text = batch.caption
    chosen = choose_masked_tokens(text, batch_seeds(batch), objective.special, None, objective.mask_prob)
    masked = corrupt_tokens(text, chosen, batch_seeds(batch), objective.mask_id, 30)
    states = model.fuse(model.encode_text(masked), model.encode_image(batch.image)).states
    expected = F.cross_entropy(objective.head(states[chosen]), text.ids[chosen])
    torch.testing.assert_close(loss.value, expected)


def batch_seeds(batch: object) -> torch.Tensor:
    from vlp.random import mix_rows

    return mix_rows(batch.seed, torch.zeros(len(batch), dtype=torch.int64))


def test_soft_targets_of_the_momentum_copy() -> None:
    batch, model, objective = toy_batch(), toy_model(fused=True).double(), make("mlm").double()
    plain = objective(model, batch, compute_features(model, batch, objective.uses)).value
    objective.distillation, objective.uses = 0.4, ("memory", "momentum.memory")
    momentum = MomentumCopy(model, {"mlm": objective})
    features = compute_features(model, batch, objective.uses, momentum=momentum)
    soft = objective(model, batch, features).value
    objective.distillation_warmup = 10  # at step 0 nothing of the soft targets counts yet
    torch.testing.assert_close(objective(model, batch, features).value, plain)
    assert soft != plain


def test_several_draws_mask_other_tokens() -> None:
    batch, model, objective = toy_batch(), toy_model(fused=True).double(), make("mlm").double()
    features = compute_features(model, batch, objective.uses)
    one = objective(model, batch, features).value
    objective.num_maskings = 3
    assert objective(model, batch, features).value != one


def test_tying_needs_an_embedding_of_the_fusions_width() -> None:
    batch, model = toy_batch(), toy_model(fused=True).double()
    objective = MLM(width=4, vocabulary_size=30).double()
    objective.mask_id = 29
    with pytest.raises(ValueError, match=r"set objectives\.mlm\.tied=false"):
        objective(model, batch, compute_features(model, batch, objective.uses))


@pytest.mark.parametrize("case", [case for case in CASES if case[0] == "mlm"])
def test_two_processes_equal_one(case: tuple[str, int | None, tuple[int, int]]) -> None:
    assert_two_processes_equal_one(case)
