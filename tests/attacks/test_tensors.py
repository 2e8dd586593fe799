"""Attack: tensors that do not fit, indices that would lead a kernel out of bounds, numbers that are none."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Warden, edit_tensors
from torch import Tensor

from sparse_rl.topology import Topology

LAYER = "policy.actor.latent_pi.0."  # 3 features, 16 neurons, 24 weights
Tensors = dict[str, Tensor]


def put(name: str, change: Callable[[Tensor], Tensor]) -> Callable[[Tensors], Any]:
    """Replace a tensor by a changed one."""
    return lambda tensors: tensors.update({name: change(tensors[name].clone())})


def at(index: int, value: float) -> Callable[[Tensor], Tensor]:
    def change(tensor: Tensor) -> Tensor:
        tensor.view(-1)[index] = value
        return tensor

    return change


def reverse_a_row(columns: Tensor) -> Tensor:
    """Bring the columns of all rows into an order that sorts nothing: highest first."""
    return columns.flip(0)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (put(f"{LAYER}columns", at(0, 3)), "Columns must lie in [0, 3)"),
        (put(f"{LAYER}columns", at(-1, 2**31 - 1)), "Columns must lie in [0, 3)"),
        (put(f"{LAYER}columns", at(0, -1)), "Columns must lie in [0, 3)"),
        (put(f"{LAYER}columns", reverse_a_row), "columns of a row must be strictly increasing"),
        (put(f"{LAYER}columns", torch.zeros_like), "columns of a row must be strictly increasing"),
        (put(f"{LAYER}row_ptr", at(0, 1)), "Row pointers must run from 0 to 24 in 17 steps"),
        (put(f"{LAYER}row_ptr", at(-1, 25)), "Row pointers must run from 0 to 24 in 17 steps"),
        (put(f"{LAYER}row_ptr", at(1, 2**30)), "Row pointers must not decrease"),
        (put(f"{LAYER}row_ptr", at(8, -5)), "Row pointers must not decrease"),
        (put(f"{LAYER}row_ptr", lambda t: t[:-1]), "has the shape (16,), but should have (17,)"),
        (put(f"{LAYER}row_ptr", lambda t: t.long()), "torch.int64, but should be torch.int32"),
        (put(f"{LAYER}values", lambda t: t[:-1]), "values of shape (23,) and columns of shape (24,)"),
        (put(f"{LAYER}values", lambda t: t.view(4, 6)), "values of shape (4, 6) and columns of shape (24,)"),
        (put(f"{LAYER}values", lambda t: t.double()), "torch.float64, but should be torch.float32"),
        (put(f"{LAYER}values", at(3, float("nan"))), f"'{LAYER[7:]}values' holds NaN or infinity"),
        (put("policy.critic.qf0.0.bias", at(0, float("inf"))), "'critic.qf0.0.bias' holds NaN or infinity"),
        (put("policy.actor.mu.bias", at(0, float("-inf"))), "'actor.mu.bias' holds NaN or infinity"),
        (put("log_ent_coef", at(0, float("nan"))), "'log_ent_coef' holds NaN or infinity"),
        (put("log_ent_coef", lambda t: t.expand(5)), "'log_ent_coef' has the shape (5,), but should have (1,)"),
        (put("policy.actor.mu.bias", lambda t: t[:0]), "'actor.mu.bias' has the shape (0,), but should have (1,)"),
        (lambda tensors: tensors.pop("log_ent_coef"), "lacks the tensor 'log_ent_coef'"),
        (lambda tensors: tensors.pop("policy.actor.mu.bias"), "lacks the tensor 'actor.mu.bias'"),
        (lambda tensors: tensors.pop(f"{LAYER}columns"), f"lacks the tensor '{LAYER[7:]}columns'"),
        (lambda tensors: tensors.update({"policy.x": torch.ones(1)}), "should not have the tensor 'x'"),
        (lambda tensors: tensors.update({"x": torch.ones(1)}), "should not have the tensor 'x'"),
        (lambda tensors: tensors.clear(), "lacks the tensor"),
    ],
)
def test_tensors_that_harm(agent: Path, warden: Warden, edit: Callable[[Tensors], Any], message: str) -> None:
    edit_tensors(agent, edit)
    assert message in warden.refusal("agent", agent)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (put(f"{LAYER}columns", at(0, 3)), "Columns must lie in [0, 3)"),
        (put(f"{LAYER}row_ptr", at(1, 2**30)), "Row pointers must not decrease"),
        (put(f"{LAYER}values", at(3, float("nan"))), f"'{LAYER[7:]}values' holds NaN or infinity"),
        (lambda tensors: tensors.pop("policy.actor.mu.bias"), "lacks the tensor 'actor.mu.bias'"),
        (lambda tensors: tensors.update({"policy.critic.qf0.0.bias": torch.ones(16)}), "should not have the tensor"),
        (lambda tensors: tensors.update({"log_ent_coef": torch.ones(1)}), "should not have the tensor 'log_ent_coef'"),
    ],
)
def test_tensors_that_harm_an_agent_that_acts_only(
    actor: Path, warden: Warden, edit: Callable[[Tensors], Any], message: str
) -> None:
    edit_tensors(actor, edit)
    assert message in warden.refusal("agent", actor)


def test_a_layer_without_weights(agent: Path, warden: Warden) -> None:
    def empty(tensors: Tensors) -> None:
        for name in ("values", "columns"):
            tensors[LAYER + name] = tensors[LAYER + name][:0]
        tensors[f"{LAYER}row_ptr"].zero_()

    edit_tensors(agent, empty)
    assert "at least one" in warden.refusal("agent", agent)


def test_row_pointers_whose_differences_overflow() -> None:
    """In 32 bits each step looks like one forward, and 2**32 weights would be asked for."""
    row_ptr = torch.tensor([0, 2**31 - 1, -(2**31), -1, 2], dtype=torch.int32)
    assert (row_ptr.diff() >= 0).all()
    with pytest.raises(ValueError, match="Row pointers must not decrease"):
        Topology((4, 4), row_ptr, torch.tensor([0, 1], dtype=torch.int32)).validate()
