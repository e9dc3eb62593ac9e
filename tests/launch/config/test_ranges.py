"""A value that would be ignored, or fail later with a library's own error, is refused when the config is composed."""

from __future__ import annotations

import pytest

from vlp.launch.config.compose import Composer, conf_folder, plain_config
from vlp.launch.config.errors import ConfigError
from vlp.launch.config.ranges import RANGES, check_ranges
from vlp.launch.config.schema import find_key


def compose(*overrides: str) -> None:
    Composer(conf=conf_folder(), config_name="train").compose(list(overrides))


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("seed=-1", "expects an integer from 0 to 4294967295"),
        ("seed=4294967296", "expects an integer from 0 to 4294967295"),
        ("seed=null", "expects an integer from 0 to 4294967295"),
        ("gradient_cache=0", r"expects an integer, 1 or more \(or null\)"),
        ("gradient_cache=2.5", "expects an integer, 1 or more"),
        ("gradient_cache=true", "expects an integer, 1 or more"),
        ("gradient_cache=many", "expects an integer, 1 or more"),
        ("momentum=abc", "expects a number from 0 to 1"),
        ("momentum=1.5", "expects a number from 0 to 1"),
        ("nonfinite_limit=-1", "expects an integer, 0 or more"),
        ("trainer.max_steps=null", "expects an integer, -1 or more"),
        ("trainer.max_steps=-7", "expects an integer, -1 or more"),
        ("trainer.max_epochs=-2", "expects an integer, -1 or more"),
        ("trainer.gradient_clip_val=-1", "expects a number, 0 or more"),
        ("trainer.accumulate_grad_batches=0", "expects an integer, 1 or more"),
        ("trainer.check_val_every_n_epoch=0", "expects an integer, 1 or more"),
        ("trainer.log_every_n_steps=-1", "expects an integer, 0 or more"),
        ("+trainer.num_nodes=0", "expects an integer, 1 or more"),
        ("trainer.deterministic=maybe", "choose true, false, auto or warn"),
        ("+trainer.max_time={minutes: -1}", "each 0 or more"),
        ("+trainer.max_time={minute: 1}", "numbers of days, hours, minutes, seconds, weeks"),
    ],
)
def test_out_of_range(override: str, sentence: str) -> None:
    key = override.lstrip("+").partition("=")[0]
    with pytest.raises(ConfigError, match=rf"^{key}=.*{sentence}"):
        compose(override)


@pytest.mark.parametrize(
    "override",
    [
        "seed=4294967295", "gradient_cache=1", "momentum=0.5", "trainer.max_steps=0", "trainer.max_epochs=-1",
        "trainer.check_val_every_n_epoch=null", "trainer.gradient_clip_val=null", "trainer.gradient_clip_val=0.5",
        "trainer.deterministic=warn", "+trainer.max_time={hours: 1.5}",
    ],
)  # fmt: skip
def test_in_range(override: str) -> None:
    compose(override)


@pytest.mark.parametrize("setting", ["detections=0", "threshold=3", "nms=true", "nms=-0.1", "pictures=-1"])
def test_settings_of_a_task(setting: str) -> None:
    with pytest.raises(ConfigError, match=r"^tasks\.detection\..*: expects an? "):
        compose("experiment=detection_scenes", f"tasks.detection.{setting}")


@pytest.mark.parametrize(
    "setting", ["beams=0", "max_length=1", "length_penalty=-1", "label_smoothing=2", "resamples=-1"]
)
def test_settings_of_translation(setting: str) -> None:
    with pytest.raises(ConfigError, match=r"^tasks\.translation\..*: expects an? "):
        compose("task=[translation]", f"tasks.translation.{setting}")


@pytest.mark.parametrize("part", ["text", "decoder"])
def test_heads_of_keys_and_values_are_a_number(part: str) -> None:
    with pytest.raises(
        ConfigError, match=rf"^model\.{part}\.key_value_heads=0: expects an integer, 1 or more \(or null\)"
    ):
        compose("model=encoder_decoder_vqa_tiny", f"model.{part}.key_value_heads=0")


def test_what_an_interpolation_leads_to_is_checked_once_it_is_resolved(monkeypatch: pytest.MonkeyPatch) -> None:
    check_ranges({"seed": "${oc.decode:${oc.env:MY_SEED}}"})
    with pytest.raises(ConfigError, match=r"^seed=-3: "):
        check_ranges({"seed": -3})


def test_each_key_is_one_of_the_config_or_of_lightnings_trainer() -> None:
    composer = Composer(conf=conf_folder(), config_name="train")
    tasks = "task=[detection,segmentation,panoptic,translation]"
    config = plain_config(composer.compose([tasks, "model=encoder_decoder_vqa_tiny"]))
    lacking = [key for key in RANGES if not find_key(config, key)[0] and not key.startswith("trainer.")]
    assert not lacking


@pytest.mark.parametrize(
    ("override", "accepted"),
    [("data.images=foo", False), ("data.images={train: 40, val: 6, test: 6}", True), ("data.images.train=50", True)],
)
def test_the_type_of_an_element_is_not_that_of_its_mapping(override: str, accepted: bool) -> None:
    if accepted:
        compose(override)
        return
    with pytest.raises(ConfigError, match=r"^data\.images=foo: .*set its keys, such as data\.images\.train"):
        compose(override)
