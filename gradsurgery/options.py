"""The options of a method: what each may be, and which parameters it chooses."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

Reduction: TypeAlias = Literal["sum", "mean"]
Scope: TypeAlias = Literal["shared", "all"] | Iterable[Tensor] | Callable[[], Iterable[Tensor]]
NonFinite: TypeAlias = Literal["pass", "raise"]
Granularity: TypeAlias = Literal["global", "group", "parameter"]


def check_option(option: str, value: str, values: Iterable[str]) -> None:
    """Raises a ValueError if the option has no such value."""
    if value not in values:
        raise ValueError(f"{option} must be one of {', '.join(map(repr, values))}, got {value!r}")


def checked_scope(scope: Scope) -> Scope:
    """Returns the scope, an iterable as a list.

    Raises:
        TypeError: If it is a module or a tensor, or holds what is no tensor.
        ValueError: If it is an unknown word.
    """
    if isinstance(scope, str):
        check_option("scope", scope, ("shared", "all"))
    elif isinstance(scope, Tensor | nn.Module):
        remedy = "a list of parameters" if isinstance(scope, Tensor) else "module.parameters"
        raise TypeError(f"scope must be parameters or return them, got {type(scope).__name__}: pass {remedy}")
    elif not callable(scope):
        return _tensors(scope)
    return scope


def checked_task_weights(task_weights: Mapping[str, float]) -> dict[str, float]:
    """Returns a copy of the weights.

    Raises:
        TypeError: If they are no mapping.
        ValueError: If one is not positive and finite.
    """
    if not isinstance(task_weights, Mapping):
        raise TypeError(
            f"task_weights must be a mapping by name, got {type(task_weights).__name__}: for losses in a"
            ' sequence the names are their positions, as in {"0": 1.0, "1": 2.0}'
        )
    for name, weight in task_weights.items():
        if not 0 < weight < math.inf:
            raise ValueError(
                f"task_weights must be positive and finite, got {weight!r} for task {name!r}:"
                " to leave a task out, leave it out of the losses"
            )
    return dict(task_weights)


def checked_generator(generator: torch.Generator | None) -> torch.Generator:
    """Returns the generator, by default a new one.

    Raises:
        TypeError: If it is no generator.
        ValueError: If it is not on the CPU.
    """
    if generator is None:
        return torch.Generator()
    if not isinstance(generator, torch.Generator):
        raise TypeError(
            f"generator must be a torch.Generator, got {type(generator).__name__}: pass"
            " torch.Generator().manual_seed(0)"
        )
    if generator.device.type != "cpu":
        raise ValueError(
            f"generator must be on the CPU, got one on {generator.device}: pass torch.Generator(), for the"
            " order is drawn without waiting for a device"
        )
    return generator


def factors(task_weights: Mapping[str, float] | None, names: Iterable[str]) -> list[float]:
    """Returns what the tasks' losses are multiplied by.

    Raises:
        ValueError: If a task has no weight.
    """
    if task_weights is None:
        return [1.0 for _ in names]
    for name in names:
        if name not in task_weights:
            raise ValueError(
                f"task_weights must have a weight for task {name!r}, got {task_weights!r}: add it, 1.0 where"
                " the loss is to stay as it is"
            )
    return [task_weights[name] for name in names]


def in_scope(scope: Scope, reached: Mapping[Tensor, int], parameters: Sequence[Tensor]) -> list[Tensor]:
    """Returns which parameters are operated on.

    Args:
        scope: As :func:`checked_scope` returned it.
        reached: The parameters that any task reaches, with the number of tasks that do.
        parameters: All parameters of the optimizer.

    Raises:
        TypeError: If a scope's callable returns what is no tensor.
        ValueError: If the scope has none of the optimizer's parameters.
    """
    if isinstance(scope, str):
        return [p for p, count in reached.items() if scope == "all" or count > 1]
    members = set(_tensors(scope() if callable(scope) else scope))
    if members.isdisjoint(parameters):
        raise ValueError(
            f"scope must have some of the optimizer's parameters, got {len(members)} others: take them from"
            " the model that the optimizer trains (a deepcopy keeps a lambda's model; a bound method follows)"
        )
    return [p for p in reached if p in members]


def parts(
    granularity: Granularity, members: Sequence[Tensor], param_groups: Sequence[Mapping[str, Any]]
) -> list[tuple[int, list[Tensor]]]:
    """Divides the parameters by surgeries, each with an index that it keeps from step to step.

    Args:
        granularity: What one surgery is for.
        members: The parameters that are operated on.
        param_groups: The optimizer's groups, by which it is counted; a parameter counts where it comes first.
    """
    if granularity == "global":
        return [(0, list(members))]
    groups = [list(dict.fromkeys(group["params"])) for group in param_groups]
    if granularity == "parameter":
        groups = [[p] for p in dict.fromkeys(p for group in groups for p in group)]
    chosen = set(members)
    divided = [(k, [p for p in group if p in chosen]) for k, group in enumerate(groups)]
    return [(k, group) for k, group in divided if group]


def _tensors(parameters: Iterable[Tensor]) -> list[Tensor]:
    if not isinstance(parameters, Iterable):
        raise TypeError(
            f"scope must be 'shared', 'all', parameters or a callable that returns them, got {parameters!r}"
        )
    members = list(parameters)
    for member in members:
        if not isinstance(member, Tensor):
            raise TypeError(
                f"scope must hold parameters, got {type(member).__name__}: pass for instance"
                " module.parameters"
            )
    return members
