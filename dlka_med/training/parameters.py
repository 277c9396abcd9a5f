"""Which parameters learn, and how fast."""

from collections.abc import Sequence
from difflib import get_close_matches

import torch
from torch import nn

from dlka_med.config.training import Optimizer
from dlka_med.errors import InputError
from dlka_med.layers import offset_parameters


def frozen_modules(network: nn.Module, names: Sequence[str]) -> list[nn.Module]:
    """The modules of these names, whose parameters learn no more; they are to stay in eval mode.

    Raises:
        InputError: there is no such module, it holds no weights, or nothing is left to learn.
    """
    found = [_module(network, name, "training.freeze") for name in names]
    for name, module in zip(names, found, strict=True):
        if not module.state_dict():
            raise InputError(f"training.freeze: the module {name} holds no weights: leave it out")
        module.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise InputError("training.freeze leaves nothing of the network to learn: freeze less of it")
    return found


def check_rates(network: nn.Module, settings: Optimizer) -> None:
    """Raise `InputError` if `rates` names what is no module of the network, or one in which nothing learns."""
    for name in settings.rates:
        module = _module(network, name, "training.optimizer.rates")
        if not any(parameter.requires_grad for parameter in module.parameters()):
            raise InputError(
                f"training.optimizer.rates: nothing learns in the module {name}, since it holds no weights or "
                "training.freeze holds all of them: take it out of rates, or out of freeze"
            )


def make_optimizer(network: nn.Module, settings: Optimizer) -> torch.optim.Optimizer:
    """SGD with Nesterov momentum or AdamW.

    Vectors (biases, norms, layer scales) do not decay, nor does what predicts offsets and modulation, which learns
    at `settings.offset_rate` times the learning rate (Dai et al., ICCV 2017, section 3, and Zhu et al., CVPR 2019,
    appendix, slow it down likewise). `settings.rates` slows whole modules down, of nested ones the innermost counts.
    Each group keeps its factor of the learning rate under "rate".

    Raises:
        InputError: as in `check_rates`.
    """
    check_rates(network, settings)
    moving = {id(parameter) for parameter in offset_parameters(network)}
    groups: dict[tuple[float, int], list[nn.Parameter]] = {(1.0, kind): [] for kind in range(3)}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            kind = 2 if id(parameter) in moving else 0 if parameter.ndim > 1 else 1
            groups.setdefault((_factor(name, settings), kind), []).append(parameter)
    described = []
    for (factor, kind), parameters in groups.items():
        rate = factor * (settings.offset_rate if kind == 2 else 1.0)
        decay = settings.weight_decay if kind == 0 else 0.0
        described.append(
            {"params": parameters, "weight_decay": decay, "rate": rate, "lr": settings.learning_rate * rate}
        )
    if settings.name == "sgd":
        momentum = settings.momentum
        return torch.optim.SGD(described, lr=settings.learning_rate, momentum=momentum, nesterov=momentum > 0)
    return torch.optim.AdamW(described, lr=settings.learning_rate)


def _factor(parameter: str, settings: Optimizer) -> float:
    inside = [name for name in settings.rates if parameter.startswith(f"{name}.")]
    return settings.rates[max(inside, key=len)] if inside else 1.0


def _module(network: nn.Module, name: str, key: str) -> nn.Module:
    known = dict(network.named_modules())
    if name and name in known:
        return known[name]
    near = get_close_matches(name, known, n=3, cutoff=0.5) or [child for child, _ in network.named_children()]
    raise InputError(f"{key}: the network has no module {name!r}; did you mean {', '.join(near)}?")
