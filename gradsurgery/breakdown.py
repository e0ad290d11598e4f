"""The parts by which a report is broken down: parameter groups, a module's children, or parts by name."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

from torch import Tensor, nn

Breakdown: TypeAlias = Literal["group"] | nn.Module | Mapping[str, Iterable[Tensor]]
Parts: TypeAlias = Literal["group"] | dict[str, list[Tensor]] | None

OTHER = "other"
"""The part of the parameters that are in no part."""


def checked_breakdown(breakdown: Breakdown | None) -> Parts:
    """Returns the parameters by part, of a module by child; one that children share is the first one's.

    Raises:
        TypeError: If it is neither ``"group"`` nor a module nor a mapping to parameters.
        ValueError: If it has no part, or a parameter is in two.
    """
    if breakdown is None or (isinstance(breakdown, str) and breakdown == "group"):
        return breakdown
    if isinstance(breakdown, nn.Module):
        parts: dict[str, list[Tensor]] = {name: [] for name, _ in breakdown.named_children()}
        for path, weight in breakdown.named_parameters():
            child, _, rest = path.partition(".")
            if rest:
                parts[child].append(weight)
    elif isinstance(breakdown, Mapping):
        parts = {name: list(parameters) for name, parameters in breakdown.items()}
    else:
        raise TypeError(
            "breakdown must be 'group', a module or a mapping from names to parameters, got"
            f" {breakdown!r}: pass for instance the model"
        )
    if not parts:
        raise ValueError(
            f"breakdown must have at least one part, got {type(breakdown).__name__} without any: pass a"
            " module with children, or {'layer': layer.parameters()}"
        )
    held: dict[Tensor, str] = {}
    for name, parameters in parts.items():
        for parameter in parameters:
            if not isinstance(parameter, Tensor):
                raise TypeError(
                    f"breakdown must map to parameters, got {type(parameter).__name__} in part {name!r}: pass"
                    " for instance layer.parameters()"
                )
            if held.setdefault(parameter, name) != name:
                raise ValueError(
                    f"breakdown must have a parameter in one part, got one of shape {tuple(parameter.shape)}"
                    f" in {held[parameter]!r} and {name!r}: leave it out of one, since the parts add up"
                )
    return parts


def divide(
    breakdown: Parts, parameters: Sequence[Tensor], param_groups: Sequence[Mapping[str, Any]]
) -> dict[str, list[Tensor]]:
    """Returns the parameters by part, at least one part, and none without parameters beside others.

    Args:
        breakdown: As :func:`checked_breakdown` returned it; without one, all are in one part.
        parameters: Parameters of the optimizer.
        param_groups: The optimizer's groups.
    """
    if breakdown == "group":
        breakdown = {f"group {k}": group["params"] for k, group in enumerate(param_groups)}
    names: dict[Tensor, str] = {}
    for name, members in (breakdown or {}).items():
        for member in members:
            names.setdefault(member, name)
    divided: dict[str, list[Tensor]] = {name: [] for name in (*(breakdown or ()), OTHER)}
    for parameter in parameters:
        divided[names.get(parameter, OTHER)].append(parameter)
    return {name: members for name, members in divided.items() if members} or {OTHER: []}
