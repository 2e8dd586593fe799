"""
Multi-layer perceptrons in feature-major layout, with a hand-written backward pass.

For networks as small as those of continuous control, automatic differentiation, layout changes and Python itself cost
as much as the arithmetic. Here activations are ``(features, batch)`` throughout, as the sparse kernels want them; a
pass over all layers is one call of a compiled function; gradients are computed for what is asked for and nothing else;
and they are written to ``.grad``, where any optimizer finds them.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sparse_rl import kernels
from sparse_rl.nn.levels import Level, Stack, make_level
from sparse_rl.nn.sparse_linear import SparseLinear

_MOST_PROGRAMS = 4


class FeatureMajorMLP:
    """
    Run the layers of one or several existing networks forward and backward, sharing their parameters.

    Several networks of the same shape, as the critics of SAC and TD3, read the same inputs and run as one: each level
    is one product instead of one for each network. Their outputs follow each other. For that their parameters become
    views of common tensors; they stay the same ``nn.Parameter`` objects, with the same values.

    :param networks: for each network alternating linear layers (dense or sparse) and ``nn.ReLU``, with or without a
        ReLU at the end
    :param heads: linear layers that all read the output of a single network, and whose outputs follow each other
    :raises ValueError: if there is another kind of layer among them; see :meth:`supports`
    """

    def __init__(self, *networks: Sequence[nn.Module], heads: Sequence[nn.Module] = ()) -> None:
        if not self.supports(*networks, heads=heads):
            names = [[type(layer).__name__ for layer in network] for network in (*networks, heads)]
            raise ValueError(f"Expected linear layers with ReLU between them, the same in all networks, not {names}.")
        by_level = list(zip(*(network[::2] for network in networks), strict=True))
        self._levels = [make_level(layers, shares_input=index == 0) for index, layers in enumerate(by_level)]
        n_relus = len(networks[0]) // 2
        if heads:
            self._levels.append(make_level(heads, shares_input=True))
        self._has_relu = [index < n_relus for index in range(len(self._levels))]
        self._stacks = [stack for level in self._levels for stack in level.stacks]
        self._dtype = self._stacks[0].tensor.dtype
        self._programs: dict[tuple[object, ...], Program] = {}
        # Where the layers keep their parameters, whoever they are; a buffer's change shows in the topology.
        layers = [layer for network in (*networks, heads) for layer in network]
        self._slots = [(layer._parameters, name) for layer in layers for name in layer._parameters]
        self._sparse_layers = [layer for layer in layers if isinstance(layer, SparseLinear)]
        self._seen: object = None
        self._version, self._shown = -1, -1
        self._is_steady = False
        self._remembered: tuple[int, Program, Tensor] | None = None

    @staticmethod
    def supports(*networks: Sequence[nn.Module], heads: Sequence[nn.Module] = ()) -> bool:
        """
        Tell whether these layers can be run here.

        :param networks: the layers of each network, in order
        :param heads: layers on top of a single network
        :return: whether they are linear layers on the CPU with ReLU between them, alike in all networks
        """
        linears = [layer for network in networks for layer in network[::2]] + list(heads)
        relus = [layer for network in networks for layer in network[1::2]]
        if not networks or not all(networks) or any(type(layer) is not nn.ReLU for layer in relus):
            return False
        # Not their subclasses: these may compute something else.
        if not all(type(layer) in (nn.Linear, SparseLinear) and _is_supported(layer) for layer in linears):
            return False
        shapes = [[_signature(layer) for layer in network[::2]] + [len(network)] for network in networks]
        heads_fit = not heads or (len(networks) == 1 and len(networks[0]) % 2 == 0)
        alike = len({_signature(head) for head in heads}) <= 1 and shapes.count(shapes[0]) == len(shapes)
        first = [*networks[0][::2], *heads[:1]]
        chained = all(a.out_features == b.in_features for a, b in pairwise(first))
        parameters = [p for layer in linears for p in layer.parameters()]
        distinct = len({id(p) for p in parameters}) == len(parameters)
        return heads_fit and alike and chained and distinct and len({p.dtype for p in parameters}) == 1

    @property
    def dtype(self) -> torch.dtype:
        """The type of all numbers."""
        return self._dtype

    @property
    def in_features(self) -> int:
        """The number of inputs."""
        return self._levels[0].in_features

    @property
    def stacks(self) -> list[Stack]:
        """All parameters, those of a level's layers as one tensor."""
        return self._stacks

    @torch.no_grad()
    def forward(self, x: Tensor, remember: bool = True, first: int = 0) -> Tensor:
        """
        Compute the output.

        :param x: inputs, of shape ``(in_features, batch)``
        :param remember: keep the activations for :meth:`backward`
        :param first: the first of the inputs whose gradient :meth:`input_gradient` will be asked for
        :return: tensor of shape ``(out_features, batch)``; the outputs of several networks, or heads, follow each other
        :raises ValueError: if the inputs have another shape or type
        """
        # What the compiled passes rely on: with another shape they would read out of bounds.
        if x.dim() != 2 or len(x) != self.in_features or x.dtype != self._dtype or x.device.type != "cpu":
            raise ValueError(
                f"Expected inputs of shape ({self.in_features}, batch), {self._dtype}, on the CPU, "
                f"not of shape {tuple(x.shape)}, {x.dtype}, on {x.device}."
            )
        x = kernels.with_contiguous_rows(x)
        program = self.prepare(x.shape[1], remember, first)
        output = program.run_forward(x)
        if remember:
            self._remembered = self._version, program, x
        return output

    @torch.no_grad()
    def backward(self, dy: Tensor) -> None:
        """
        Write the gradients of the parameters, at the last remembered forward pass, to their ``.grad``.

        Parameters that do not require a gradient are left alone. Hooks of the layers are not called.

        :param dy: gradient of the output, of shape ``(out_features, batch)``; if it is narrower than the forward pass's
            batch, it is for the first of its columns, and the others do not count
        :raises ValueError: if it has another shape, or there was no such pass
        """
        program, x = self._last_pass()
        program.run_backward(dy, x, parameters=True)
        self.show_gradients()

    @torch.no_grad()
    def input_gradient(self, dy: Tensor) -> Tensor:
        """
        Compute the gradient of the inputs, at the last remembered forward pass, and no other.

        :param dy: gradient of the output, as for :meth:`backward`
        :return: tensor of shape ``(in_features - first, batch)``: the sum over all networks
        :raises ValueError: if ``dy`` has another shape, or there was no such pass
        """
        program, x = self._last_pass()
        return program.run_backward(dy, x, parameters=False)

    def show_gradients(self) -> None:
        """Let the parameters' ``.grad`` be what the last backward pass wrote."""
        if self._shown == self._version and all(stack.shows_gradient for stack in self._stacks):
            return
        for stack in self._stacks:
            stack.show_gradient()
        self._shown = self._version

    @contextmanager
    def steady(self) -> Iterator[None]:
        """Look once whether parameters or topologies have changed, and not again at each pass."""
        self.follow()
        self._is_steady = True
        try:
            yield
        finally:
            self._is_steady = False

    def follow(self) -> None:
        """Look whether parameters or topologies have changed, and forget what does not hold any longer."""
        if self._look() == self._seen:
            return
        version = sum(level.follow() for level in self._levels)
        if version != self._version:
            self._programs, self._version = {}, version
        self._seen = self._look()

    def _look(self) -> object:
        """Tell by what parameters and topologies are known: who they are, where they lie, whether they are trained."""
        parameters = [place[name] for place, name in self._slots]
        return (
            [id(p) for p in parameters],
            [None if p is None else (p.data_ptr(), p.requires_grad, p.is_contiguous()) for p in parameters],
            [id(layer.topology) for layer in self._sparse_layers],  # levels keep theirs: no other takes its id
        )

    def _last_pass(self) -> tuple["Program", Tensor]:
        if self._remembered is None:
            raise ValueError("There is no forward pass to differentiate.")
        if not self._is_steady:
            self.follow()
        version, program, x = self._remembered
        if version != self._version:
            raise ValueError(
                "Parameters or topologies have changed since the forward pass: it cannot be differentiated."
            )
        return program, x

    def prepare(self, batch: int, remember: bool = True, first: int = 0) -> "Program":
        """
        Describe a pass for compiled code: the description holds until parameters move or a topology changes.

        :param batch: columns of a batch
        :param remember: whether there may be a backward pass
        :param first: the first of the inputs whose gradient it may ask for; :attr:`in_features` for none
        :return: the description, with the memory that the pass works in
        :raises ValueError: if there is no such input
        """
        if not 0 <= first <= self.in_features:
            raise ValueError(f"Expected a first input between 0 and {self.in_features}, not {first}.")
        if not self._is_steady:
            self.follow()
        key = (batch, remember, first)
        program = self._programs.get(key)
        if program is None:
            while len(self._programs) >= _MOST_PROGRAMS:
                del self._programs[next(iter(self._programs))]
            program = self._programs[key] = Program(self._levels, self._has_relu, batch, self._dtype, remember, first)
        return program


class Program:
    """
    The description of a network for the compiled passes, for one batch size, and the memory that they work in.

    :param levels: the levels
    :param has_relu: which of them end with ReLU
    :param batch: columns of a batch
    :param dtype: of all numbers
    :param is_remembered: whether there may be a backward pass
    :param first: the first of the inputs whose gradient it may ask for
    """

    def __init__(
        self,
        levels: Sequence[Level],
        has_relu: Sequence[bool],
        batch: int,
        dtype: torch.dtype,
        is_remembered: bool,
        first: int,
    ) -> None:
        self._has_relu, self._batch, self._n_wanted = has_relu, batch, levels[0].in_features - first
        self._like = kernels.LIKE[dtype]
        kernels.start_threads()
        #: One record of :data:`sparse_rl.kernels.LEVEL` for each level.
        self.table = np.zeros(len(levels), kernels.LEVEL)
        self._kept: list[Any] = []
        some = torch.empty(0, dtype=dtype)
        for index, level in enumerate(levels):
            record = self.table[index]
            wanted = first if index == 0 else 0
            self._kept += level.describe(record, wanted if is_remembered else level.in_features)
            record["relu"] = has_relu[index]
            self._output = self._reserve(record, "out", kernels.empty_activations(level.rows, batch, some))
            if is_remembered:
                self._d_output = self._reserve(record, "d_out", kernels.empty_activations(level.rows, batch, some))
                scratch = level.scratch(batch)
                record["scratch"] = scratch.data_ptr()
                self._kept.append(scratch)

    def _reserve(self, record: Any, name: str, activations: Tensor) -> Tensor:
        record[name], record[f"{name}_stride"] = activations.data_ptr(), activations.stride(0)
        self._kept.append(activations)
        return activations

    def run_forward(self, x: Tensor) -> Tensor:
        """
        Compute the output.

        :param x: the inputs
        :return: a copy of the output
        """
        threads = 1 if self._batch == 1 else kernels.follow_torch()
        kernels.forward(self.table, x.data_ptr(), x.stride(0), self._batch, threads, self._like)
        return self._output.clone()  # the next pass writes over it

    def run_backward(self, dy: Tensor, x: Tensor, parameters: bool) -> Tensor:
        """
        Compute gradients: those of the parameters, or that of the inputs.

        :param dy: gradient of the output
        :param x: the inputs of the last forward pass
        :param parameters: whether to write those of the parameters
        :return: the gradient of the inputs; without any rows if those of the parameters are written
        :raises ValueError: if ``dy`` has another shape
        """
        if dy.shape[0] != len(self._output) or dy.shape[1] > self._batch:
            raise ValueError(
                f"Expected the gradient of an output of shape {tuple(self._output.shape)}, "
                f"not one of shape {tuple(dy.shape)}."
            )
        batch = dy.shape[1]
        d_output = self._d_output[:, :batch]
        d_output.copy_(dy)
        if self._has_relu[-1]:
            d_output.mul_(self._output[:, :batch] > 0)
        dx = kernels.empty_activations(0 if parameters else self._n_wanted, batch, d_output)
        kernels.backward(
            self.table, x.data_ptr(), x.stride(0), batch, parameters, 0 if parameters else dx.data_ptr(), dx.stride(0),
            kernels.follow_torch(), self._like,
        )  # fmt: skip
        return dx


def _is_supported(layer: nn.Module) -> bool:
    assert isinstance(layer, nn.Linear | SparseLinear)
    hooks = (layer._forward_hooks, layer._forward_pre_hooks, layer._backward_hooks, layer._backward_pre_hooks)
    weights = layer.values if isinstance(layer, SparseLinear) else layer.weight
    # Layers whose weights were replaced by some of another shape do not say so themselves.
    shape = (layer.columns.numel(),) if isinstance(layer, SparseLinear) else (layer.out_features, layer.in_features)
    fits = weights.shape == shape and (layer.bias is None or layer.bias.shape == (layer.out_features,))
    return (
        not any(hooks)
        and "forward" not in vars(layer)
        and fits
        and all(
            p.device.type == "cpu" and p.dtype in kernels.LIKE and not p._backward_hooks for p in layer.parameters()
        )
    )


def _signature(layer: nn.Module) -> tuple[object, ...]:
    """Tell what has to be the same in layers that run as one."""
    assert isinstance(layer, nn.Linear | SparseLinear)
    kind = layer.chosen_kernel if isinstance(layer, SparseLinear) else "dense"
    return (kind, layer.out_features, layer.in_features, layer.bias is None)
