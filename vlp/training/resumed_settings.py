"""A resumed run has the checkpoint's state and the config's settings.

Lightning and torch also restore settings from a checkpoint (learning rates, betas, decay, a schedule's bases, the patience of
early stopping), which would make the run's config.yaml untrue. Here each of them is the config's again, and the optimiser's
state goes to parameters by name, as the groups that settings divide the parameters into may be others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lightning.pytorch.callbacks import Callback, EarlyStopping, WeightAveraging
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from vlp.system.errors import UserError

PARAMETERS, NAMES, SETTINGS = "params", "param_names", "settings"  # keys of an optimiser's parameter groups


def keep_settings(optimizer: Optimizer, module: nn.Module) -> None:
    """To call before a schedule is made: `optimizer.load_state_dict` then changes no setting. Checkpoints get the names of the
    parameters and the settings of each group, for a later process to compare with its own."""
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    for group in optimizer.param_groups:
        settings = {key: value for key, value in group.items() if key != PARAMETERS}
        group[NAMES] = [names[id(parameter)] for parameter in group[PARAMETERS]]
        group[SETTINGS] = settings
    optimizer.register_load_state_dict_pre_hook(with_own_settings)


def with_own_settings(optimizer: Optimizer, stored: dict[str, Any]) -> dict[str, Any]:
    """The stored state under the numbers that this optimiser gives to its parameters, and this optimiser's groups."""
    own, before = optimizer.state_dict()["param_groups"], stored["param_groups"]
    if all(NAMES in group for group in before):
        number = {name: index for group in own for name, index in zip(group[NAMES], group[PARAMETERS], strict=True)}
        moved = {
            index: number[name]
            for group in before
            for name, index in zip(group[NAMES], group[PARAMETERS], strict=True)
            if name in number
        }
    elif [len(group[PARAMETERS]) for group in before] == [len(group[PARAMETERS]) for group in own]:
        moved = {index: index for group in own for index in group[PARAMETERS]}  # of a version that stored no names
    else:
        raise UserError(
            "the optimizer's settings or `freeze` divide the parameters into other groups than the checkpoint's, which has no "
            "names of parameters: resume with its own settings, or start a new run from its weights with checkpoint="
        )
    home = {moved[index]: group for group in before for index in group[PARAMETERS] if index in moved}
    groups = [_merge_group(group, next((home[i] for i in group[PARAMETERS] if i in home), None)) for group in own]
    state = {moved[index]: entry for index, entry in stored["state"].items() if index in moved}
    return {**stored, "state": state, "param_groups": groups}


def _merge_group(own: dict[str, Any], before: dict[str, Any] | None) -> dict[str, Any]:
    """What an optimiser keeps in a group besides settings is the checkpoint's; settings that were changed are this run's."""
    if before is None:  # parameters that were frozen
        return own
    settings, known = own[SETTINGS], before.get(SETTINGS, {})
    changed = {key: value for key, value in settings.items() if key not in known or known[key] != value}
    merged = {**own, **{key: value for key, value in before.items() if key in own}, **changed}
    if "initial_lr" in own:  # a schedule multiplies it
        ratio = settings["lr"] / before.get("initial_lr", settings["lr"])
        merged |= {"lr": before["lr"] if ratio == 1 else before["lr"] * ratio, "initial_lr": settings["lr"]}
    return merged | {key: own[key] for key in (PARAMETERS, NAMES, SETTINGS)}


def keep_schedule(scheduler: LRScheduler) -> None:
    """To call after a schedule was restored: its bases are the optimiser's again, and a factor of the step is computed again."""
    if not hasattr(scheduler, "base_lrs"):
        return
    groups = scheduler.optimizer.param_groups
    state = scheduler.state_dict() | {"base_lrs": [group["initial_lr"] for group in groups]}
    if isinstance(scheduler, LambdaLR):
        factors = [factor(scheduler.last_epoch) for factor in scheduler.lr_lambdas]
        state["_last_lr"] = [base * factor for base, factor in zip(state["base_lrs"], factors, strict=True)]
        for group, rate in zip(groups, state["_last_lr"], strict=True):
            group["lr"] = rate
    scheduler.load_state_dict(state)


def keep_callback_settings(checkpoint: dict[str, Any], callbacks: Sequence[Callback]) -> None:
    """Changes a checkpoint that is about to be restored."""
    for callback in callbacks:
        stored = checkpoint.get("callbacks", {}).get(callback.state_key)
        if isinstance(callback, EarlyStopping) and stored is not None:
            stored["patience"] = callback.patience
    if "current_model_state" in checkpoint and not any(isinstance(callback, WeightAveraging) for callback in callbacks):
        # the average takes the place of the weights in a checkpoint; without it, training continues from the weights
        checkpoint["state_dict"] = checkpoint["current_model_state"]


def check_weights(stored: Mapping[str, Tensor], module: nn.Module) -> None:
    """Raises UserError where a checkpoint's tensors are not those of the module that continues with them."""
    own = module.state_dict()
    names = [name for name in own if name not in stored] + [name for name in stored if name not in own]
    shapes = [name for name in own if name in stored and stored[name].numel() != own[name].numel()]
    if names or shapes:
        lists = [
            f"{len(found)} tensors {what} ({', '.join(found[:3])}{', …' if len(found) > 3 else ''})"
            for found, what in ((names, "are in only one of the two"), (shapes, "have other shapes"))
            if found
        ]
        raise UserError(
            f"the checkpoint is of another model than this config's: {'; '.join(lists)}; resume with its own settings, or start a "
            "new run from its weights with checkpoint="
        )
