"""An Optimizer around an Optimizer: one set of parameter groups, state and defaults, two objects."""

import inspect
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch.optim import Optimizer

Closure: TypeAlias = Callable[[], Any]
StateDict = dict[str, Any]


class _Shared:
    """An attribute that lives in the inner optimizer.

    What ``Optimizer.__init__`` assigns before there is an inner optimizer is dropped.
    """

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, wrapper: "OptimizerWrapper | None", owner: type | None = None) -> Any:
        return self if wrapper is None else getattr(wrapper.optimizer, self.name)

    def __set__(self, wrapper: "OptimizerWrapper", value: Any) -> None:
        if "optimizer" in wrapper.__dict__:
            setattr(wrapper.optimizer, self.name, value)


class OptimizerWrapper(Optimizer):
    """Base of the optimizers that prepare ``.grad`` and leave the update to an inner optimizer.

    Learning rate schedulers, step hooks, ``add_param_group``, ``deepcopy`` and ``pickle`` work as for any
    optimizer, on the wrapper and on the inner optimizer alike, because the two share their attributes.

    Attributes:
        optimizer: The inner optimizer.
    """

    _wraps_methods = False
    param_groups: Any = _Shared()
    state: Any = _Shared()
    defaults: Any = _Shared()

    def __init__(self, optimizer: Optimizer) -> None:
        if not isinstance(optimizer, Optimizer):
            raise TypeError(
                f"optimizer must be a torch.optim.Optimizer, got {type(optimizer).__name__}:"
                " pass for instance torch.optim.AdamW(model.parameters())"
            )
        if isinstance(optimizer, OptimizerWrapper) and not self._wraps_methods:
            raise TypeError(
                f"optimizer must make updates of its own, got {type(optimizer).__name__}, a wrapper: wrap the"
                " optimizer in it once, and for two updates a step take GSE(PCGrad(optimizer))"
            )
        closure = inspect.signature(optimizer.step).parameters.get("closure")
        if closure is not None and closure.default is inspect.Parameter.empty:
            raise TypeError(
                "optimizer must make its update from the gradient at hand, got"
                f" {type(optimizer).__name__}, whose step() evaluates the losses again by a closure and would"
                " miss the surgery: take another, such as torch.optim.AdamW"
            )
        super().__init__([{"params": []}], {})
        self.optimizer = optimizer

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a group of parameters to the inner optimizer."""
        if "optimizer" in self.__dict__:
            self.optimizer.add_param_group(param_group)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clears the gradients."""
        self.optimizer.zero_grad(set_to_none)

    def state_dict(self) -> StateDict:
        """Returns the inner optimizer's state with this wrapper's own beside it.

        A plain inner optimizer can load it, too: it ignores the entry ``"gradsurgery"``.
        """
        for pre_hook in self._optimizer_state_dict_pre_hooks.values():
            pre_hook(self)
        state_dict = self.optimizer.state_dict()
        if own := self._own_state():
            state_dict["gradsurgery"] = own
        for post_hook in self._optimizer_state_dict_post_hooks.values():
            state_dict = post_hook(self, state_dict) or state_dict
        return state_dict

    def load_state_dict(self, state_dict: StateDict) -> None:
        """Loads a state of this wrapper, or of a plain inner optimizer."""
        for pre_hook in self._optimizer_load_state_dict_pre_hooks.values():
            state_dict = pre_hook(self, state_dict) or state_dict
        self.optimizer.load_state_dict(state_dict)
        self._load_own_state(state_dict.get("gradsurgery", {}))
        for post_hook in self._optimizer_load_state_dict_post_hooks.values():
            post_hook(self)

    def _own_state(self) -> StateDict:
        """Returns what a checkpoint must hold beside the inner optimizer's state."""
        return {}

    def _load_own_state(self, state: StateDict) -> None:
        """Restores what ``_own_state`` returned; an empty mapping comes from a plain checkpoint."""

    @staticmethod
    def _evaluated(closure: Closure | None) -> Any:
        """Calls what a training loop would have done before the step, and returns its loss."""
        if closure is None:
            return None
        with torch.enable_grad():
            return closure()

    def __getstate__(self) -> dict[str, Any]:
        # Hooks and what a scheduler puts over step() belong to this object alone, as for any optimizer.
        return {k: v for k, v in self.__dict__.items() if k != "step" and not k.startswith("_optimizer_")}
