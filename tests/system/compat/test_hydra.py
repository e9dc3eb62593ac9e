from __future__ import annotations

from pathlib import Path

import pytest
from hydra import version
from hydra.types import RunMode
from omegaconf import OmegaConf

from tests.system.compat.contract import Contract, broken
from vlp.system.compat import hydra

LOADER = "hydra._internal.config_loader_impl:ConfigLoaderImpl"
HYDRA = "hydra._internal.hydra:Hydra"
CONTRACTS = [
    Contract(
        name="hydra._internal.utils:get_args_parser",
        needed="read Hydra's command line and add --max-restarts to it",
        used_in="hydra.argument_parser()",
        parameters=(),
    ),
    Contract(
        name="hydra._internal.utils:create_config_search_path",
        needed="find YAML files in conf/, in a conf/ of the user's and in --config-dir",
        used_in="hydra.create_hydra()",
        parameters=("search_path_dir",),
    ),
    Contract(
        name=f"{HYDRA}.create_main_hydra2",
        needed="compose a config without Hydra's job",
        used_in="hydra.create_hydra()",
        parameters=("task_name", "config_search_path"),
    ),
    *(
        Contract(
            name=f"{HYDRA}.{method}",
            needed=f"answer the command line's {option}",
            used_in="hydra.create_hydra(), and vlp/launch/main.py",
            parameters=parameters,
        )
        for method, option, parameters in (
            ("hydra_help", "--hydra-help", ("config_name", "args_parser", "args")),
            ("app_help", "--help", ("config_name", "args_parser", "args")),
            ("shell_completion", "--shell-completion", ("config_name", "overrides")),
            ("show_info", "--info", ("info", "config_name", "overrides")),
        )
    ),
    Contract(
        name="hydra.core.override_parser.overrides_parser:OverridesParser.create",
        needed="read overrides, those of a sweep included",
        used_in="hydra.parse_overrides()",
        parameters=("config_loader",),
    ),
    Contract(
        name=f"{LOADER}._parse_overrides_and_create_caching_repo",
        needed="tell an override that chooses a group from one that sets a value",
        used_in="hydra.parse_overrides_with_repository()",
        parameters=("config_name", "overrides"),
    ),
    Contract(
        name=f"{LOADER}._apply_overrides_to_config",
        needed="apply one override after it was checked",
        used_in="hydra.apply_override()",
        parameters=("overrides", "cfg"),
    ),
    Contract(
        name=f"{LOADER}._compose_config_from_defaults_list",
        needed="check an experiment file against what the other files define",
        used_in="hydra.compose_defaults()",
        parameters=("defaults", "repo"),
    ),
    Contract(
        name=f"{LOADER}._load_single_config",
        needed="name the YAML file that sets a key, in the message about a wrong override",
        used_in="hydra.load_default()",
        parameters=("default", "repo"),
    ),
    Contract(
        name="omegaconf._utils:split_key",
        needed="find a dotted key in a config",
        used_in="hydra.split_key()",
        parameters=("key",),
    ),
    Contract(
        name="omegaconf:_get_node",
        needed="keep secrets unresolved in RUN/config.yaml",
        used_in="hydra.raw_value()",
        on=lambda: OmegaConf.create({"a": 1}),
        parameters=("key",),
    ),
    Contract(
        name="omegaconf:_value",
        needed="keep secrets unresolved in RUN/config.yaml",
        used_in="hydra.raw_value()",
        on=lambda: OmegaConf.create({"a": 1})._get_node("a"),
        parameters=(),
    ),
]


@pytest.mark.parametrize("contract", CONTRACTS, ids=lambda contract: contract.id)
def test_contract(contract: Contract) -> None:
    sentence = broken(contract)
    assert sentence is None, sentence


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    for name, text in {
        "train.yaml": "defaults: [_self_, {model: small}]\nseed: 1\n",
        "model/small.yaml": "width: 8\n",
        "model/large.yaml": "width: 64\n",
        "mine/model/own.yaml": "width: 5\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    version.setbase("1.3")
    return tmp_path


def test_composing_step_by_step(conf: Path) -> None:
    loader = hydra.create_hydra("train", conf, [conf / "mine"]).config_loader
    assert sorted(loader.get_group_options("model")) == ["large", "own", "small"]
    overrides, repository = hydra.parse_overrides_with_repository(loader, "train", ["model=large", "seed=2", "~seed"])
    assert [override.key_or_group for override in overrides] == ["model", "seed", "seed"]
    assert (repository.group_exists("model"), repository.group_exists("seed")) == (True, False)
    defaults = loader.compute_defaults_list("train", ["model=large"], RunMode.RUN).defaults
    model = next(default for default in defaults if default.config_path == "model/large")
    assert hydra.load_default(loader, model) == {"model": {"width": 64}}
    config = hydra.compose_defaults(loader, [default for default in defaults if default is not model], repository)
    assert (config.seed, "model" in config) == (1, False)
    hydra.apply_override(loader, overrides[1], config)
    assert config.seed == 2
    hydra.apply_override(loader, overrides[2], config)
    assert "seed" not in config


def test_overrides_of_a_sweep(conf: Path) -> None:
    loader = hydra.create_hydra("train", conf).config_loader
    (override,) = hydra.parse_overrides(loader, ["seed=1,2"])
    assert override.is_sweep_override()


def test_keys_and_raw_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_TOKEN", "secret")
    config = OmegaConf.create({"token": "${oc.env:MY_TOKEN}", "list": [1, "${token}"]})
    assert config.token == "secret"
    assert hydra.raw_value(config, "token") == "${oc.env:MY_TOKEN}"
    assert hydra.raw_value(config.list, 1) == "${token}"
    assert hydra.split_key("a.b[0]") == ["a", "b", "0"]


def test_the_command_line() -> None:
    options = hydra.argument_parser().parse_args(["--cfg", "job", "-m", "seed=1"])
    assert (options.cfg, options.multirun, options.overrides) == ("job", True, ["seed=1"])
