"""A linear layer that stores and computes only its active weights."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sparse_rl import kernels
from sparse_rl.topology import Budget, Rewiring, Topology

_SIZE = "size_of_layer"  # attribute of the parameter `values`: how many weights there could be


class SparseLinear(nn.Module):
    """
    Apply ``y = x W^T + b`` where ``W`` has only the weights of a :class:`~sparse_rl.topology.Topology`.

    The parameter ``values`` is the vector of active weights, so every optimizer of PyTorch is a sparse optimizer, and
    its state has one entry per active weight. The topology is kept in the buffers ``row_ptr`` and ``columns``, and
    travels with ``state_dict()``.

    :param topology: which weights exist
    :param bias: whether the layer has a (dense) bias
    :param kernel: ``"numba"``, ``"scatter"``, or ``"auto"`` to choose by device and density
    :param budget: how many weights the layer is to have in the end, for methods that prune or grow; as many as in
        ``topology`` if ``None``
    :raises ValueError: if there is no such kernel, or the topology is not valid
    """

    row_ptr: Tensor
    columns: Tensor
    bias: nn.Parameter | None

    def __init__(self, topology: Topology, bias: bool = True, kernel: str = "auto", budget: int | None = None) -> None:
        super().__init__()
        topology.validate()  # a kernel would follow a bad index out of bounds
        self.out_features, self.in_features = topology.shape
        self.kernel = kernel
        #: The number of active weights at the start of training, and at its end.
        self.budget = Budget(topology.active, topology.active if budget is None else budget)
        kernels.choose(kernel, topology.density, topology.columns.device)
        # Clones: buffers are written by load_state_dict(), a topology is an immutable value.
        self.register_buffer("row_ptr", topology.row_ptr.clone())
        self.register_buffer("columns", topology.columns.clone())
        self._n_connected = _count_connected(topology.columns)
        self.values = nn.Parameter(torch.empty(topology.active))
        self.bias = nn.Parameter(torch.empty(self.out_features)) if bias else None
        self._topology: Topology | None = topology
        self._patterns: dict[tuple[int, ...], tuple[kernels.Pattern, ...]] = {}
        self.reset_parameters()

    @classmethod
    def from_dense(
        cls, linear: nn.Linear, topology: Topology, kernel: str = "auto", budget: int | None = None
    ) -> "SparseLinear":
        """
        Keep the weights of a dense layer that a topology names: same values, same bias.

        As in ANF the surviving weights keep the scale of the dense layer's initialisation.

        :param linear: the dense layer
        :param topology: which of its weights to keep
        :param kernel: see :class:`SparseLinear`
        :param budget: see :class:`SparseLinear`
        :return: the sparse layer, on the same device and of the same dtype
        :raises ValueError: if the topology has another shape than the layer
        """
        if topology.shape != (linear.out_features, linear.in_features):
            raise ValueError(f"A topology of shape {topology.shape} does not fit {linear}.")
        layer = cls(topology, bias=linear.bias is not None, kernel=kernel, budget=budget)
        layer.to(device=linear.weight.device, dtype=linear.weight.dtype)
        with torch.no_grad():
            layer.values.copy_(linear.weight.flatten()[topology.positions])
            if layer.bias is not None:
                layer.bias.copy_(linear.bias)
        return layer

    def reset_parameters(self) -> None:
        """Draw values and bias as ``torch.nn.Linear`` does: uniformly within ``1 / sqrt(in_features)``."""
        bound = self.in_features**-0.5
        nn.init.uniform_(self.values, -bound, bound)
        if self.bias is not None:
            nn.init.uniform_(self.bias, -bound, bound)

    def rescale_to_fan_in(self) -> None:
        """
        Scale the weights of each neuron as if only its active weights had been counted at initialisation.

        A dense layer's weights are drawn on a scale of ``1 / sqrt(in_features)``; a neuron with ``n`` active ones gets
        the scale ``1 / sqrt(n)``, so that its output varies as much as a dense neuron's (Evci et al. 2022).
        """
        fan_in = self.row_ptr.diff().to(self.values.dtype)[self.topology.rows]
        with torch.no_grad():
            self.values.mul_((self.in_features / fan_in).sqrt())

    def draw_values(self, generator: torch.Generator | None = None) -> None:
        """
        Draw all weights anew, as PyTorch does for a dense layer that has only the active ones.

        :param generator: source of randomness, on the CPU; PyTorch's global generator if ``None``
        """
        fan_in = self.row_ptr.diff().to(self.values.dtype)[self.topology.rows]
        drawn = torch.rand(self.values.numel(), generator=generator, dtype=self.values.dtype)
        with torch.no_grad():
            self.values.copy_((2 * drawn - 1).to(self.values.device) / fan_in.sqrt())

    @property
    def topology(self) -> Topology:
        """Which weights exist."""
        if self._topology is None:
            shape = (self.out_features, self.in_features)
            self._topology = Topology(shape, self.row_ptr.clone(), self.columns.clone())
        return self._topology

    @property
    def density(self) -> float:
        """The fraction of weights that are active, in (0, 1]."""
        return self.values.numel() / (self.out_features * self.in_features)

    @property
    def chosen_kernel(self) -> str:
        """The kernel that computes this layer: ``"numba"`` or ``"scatter"``."""
        return kernels.choose(self.kernel, self.density, self.values.device)

    def forward(self, *inputs: Tensor) -> Tensor:
        """
        Apply the layer.

        :param inputs: the input features, of shape ``(batch, in_features)``; or several blocks of them, in order, whose
            widths add up to ``in_features``. Blocks save a concatenation, and gradients are computed only for those
            that need them: a critic takes ``layer(observation, action)``.
        :return: tensor of shape ``(batch, out_features)``
        :raises ValueError: if the blocks have several batch sizes, or their widths do not add up
        """
        self._check(inputs)
        if self.chosen_kernel == "numba":
            return kernels.numba_linear(inputs, self.values, self.bias, self.patterns([x.shape[1] for x in inputs]))
        return kernels.scatter_linear(inputs, self.values, self.bias, self.topology.positions, self.topology.shape)

    def _check(self, inputs: Sequence[Tensor]) -> None:
        """Check what kernels rely on: with fewer rows in one block than in another they would read out of bounds."""
        batches = {x.shape[:-1] for x in inputs}
        if len(batches) != 1 or inputs[0].dim() != 2 or sum(x.shape[1] for x in inputs) != self.in_features:
            raise ValueError(
                f"Expected blocks of shape (batch, width) with {self.in_features} features in all, not "
                f"{' + '.join(str(tuple(x.shape)) for x in inputs) or 'nothing'}."
            )

    def dense_weight(self) -> Tensor:
        """
        Show the weights as a dense matrix, zeros included: a view for people, without gradient.

        :return: tensor of shape ``(out_features, in_features)``
        """
        weight = self.values.new_zeros(self.out_features * self.in_features)
        weight[self.topology.positions] = self.values.detach()
        return weight.view(self.out_features, self.in_features)

    def to_dense(self) -> nn.Linear:
        """
        Convert to an ordinary layer that computes the same.

        :return: a dense ``torch.nn.Linear`` whose absent weights are zero
        """
        # Not initialised: a look at a layer must not draw random numbers from the training's generator.
        linear = nn.utils.skip_init(
            nn.Linear,
            self.in_features,
            self.out_features,
            bias=self.bias is not None,
            device=self.values.device,
            dtype=self.values.dtype,
        )
        with torch.no_grad():
            linear.weight.copy_(self.dense_weight())
            if self.bias is not None:
                linear.bias.copy_(self.bias)
        return linear  # type: ignore[no-any-return]

    def rewire(self, rewiring: Rewiring) -> None:
        """
        Change the topology: kept weights keep their values bit for bit, new ones start at zero.

        The optimizer's state has to follow, and target networks too: see :func:`sparse_rl.nn.rewire_layer`.

        :param rewiring: a change of this layer's present topology
        :raises ValueError: if it is a change of another topology, or leaves no weight
        """
        self.check(rewiring)
        values = rewiring.carry(self.values.detach())
        self._resize(values.numel())
        with torch.no_grad():
            self.values.copy_(values)  # in place: autograd then knows that a pass from before cannot be differentiated
        self.row_ptr = rewiring.after.row_ptr.clone()
        self.columns = rewiring.after.columns.clone()
        self._note_topology()

    def check(self, rewiring: Rewiring) -> None:
        """
        Check that a rewiring belongs to this layer.

        :param rewiring: the change
        :raises ValueError: if it is a change of another topology, or leaves no weight
        """
        if rewiring.before is not self.topology and rewiring.before != self.topology:
            raise ValueError("This rewiring was made for another topology than the layer's present one.")
        if rewiring.after.active == 0:
            raise ValueError("A layer has to keep at least one weight, but this rewiring leaves none.")

    def extra_repr(self) -> str:
        """Describe the layer in ``print(module)``."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, active={self.values.numel()}, "
            f"density={self.density:.4g}, bias={self.bias is not None}, kernel={self.kernel}"
        )

    def patterns(self, widths: Sequence[int]) -> tuple[kernels.Pattern, ...]:
        """
        Find the active weights of each block of input features; the answer is kept until the topology changes.

        :param widths: the number of features of each block; they must add up to ``in_features``
        :return: see :func:`sparse_rl.kernels.split`
        :raises ValueError: if the widths do not add up
        """
        key = tuple(widths)
        if key not in self._patterns:
            self._patterns[key] = kernels.split(self.row_ptr, self.columns, self.in_features, key)
        return self._patterns[key]

    def register_parameter(self, name: str, param: nn.Parameter | None) -> None:
        """Register a parameter, and let an optimizer, which sees nothing else, know that ``values`` are sparse."""
        super().register_parameter(name, param)
        self._mark_values()

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        if "_n_connected" not in state:  # a pickle of an older version
            self._n_connected = _count_connected(self.columns)
        self._mark_values()  # a copy of a parameter has not its attributes

    def _mark_values(self) -> None:
        if (values := self._parameters.get("values")) is not None:
            # Features that no neuron is connected to, as after screening, are no part of the layer.
            setattr(values, _SIZE, self.out_features * self._n_connected)

    def _resize(self, active: int) -> None:
        """Make room for another number of weights, in the same parameter: optimizers know it by its identity."""
        if active != self.values.numel():
            dtype = self.values.dtype
            self.values.grad = None
            # As long as a graph from before is alive, autograd expects gradients of the old size. Only another type
            # makes it forget that, so the parameter has one for a moment.
            other = torch.float32 if dtype == torch.float64 else torch.float64
            self.values.data = self.values.new_empty(active, dtype=other)
            self.values.data = self.values.new_empty(active, dtype=dtype)

    def _note_topology(self) -> None:
        """Take note of another topology."""
        self._forget_caches()
        self._n_connected = _count_connected(self.columns)
        self._mark_values()

    def _forget_caches(self) -> None:
        self._topology = None
        self._patterns = {}

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        present = self.topology
        self._make_room(state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args)
        self._forget_caches()
        try:
            self.topology.validate()
        except ValueError as error:
            # A kernel would follow a bad index out of bounds: keep the old ones, and let load_state_dict() complain.
            self.row_ptr, self.columns = present.row_ptr.clone(), present.columns.clone()
            self._forget_caches()
            error_msgs: list[str] = args[-1]
            error_msgs.append(f"invalid topology for {prefix.rstrip('.') or 'the layer'}: {error}")
        self._note_topology()

    def _make_room(self, state_dict: Any, prefix: str) -> None:
        """Prepare for the state of a layer that has another number of weights; whatever does not fit is left alone."""
        values, columns = (state_dict.get(f"{prefix}{name}") for name in ("values", "columns"))
        row_ptr = state_dict.get(f"{prefix}row_ptr")
        if not all(isinstance(each, Tensor) for each in (values, columns, row_ptr)):
            return
        if columns.dtype != self.columns.dtype or columns.dim() != 1 or columns.shape != values.shape:
            return
        try:
            Topology((self.out_features, self.in_features), row_ptr, columns).validate()
        except (ValueError, RuntimeError):
            return
        self._resize(columns.numel())
        if columns.shape != self.columns.shape:
            self.columns = self.columns.new_empty(columns.numel())

    def _apply(self, *args: Any, **kwargs: Any) -> "SparseLinear":
        super()._apply(*args, **kwargs)  # type: ignore[no-untyped-call]
        self._mark_values()  # some conversions replace parameters
        self._forget_caches()
        return self


def density_of(parameter: Tensor) -> float | None:
    """
    Tell the density of the layer whose active weights a parameter holds, among the features that it is connected to.

    After screening these may be few of all; what a layer does not look at does not make it any sparser.

    :param parameter: any parameter of a network
    :return: the fraction of these weights that are active, in (0, 1]; ``None`` if the parameter is not the ``values``
        of a :class:`SparseLinear`
    """
    size: int | None = getattr(parameter, _SIZE, None)
    return None if size is None else parameter.numel() / size


def _count_connected(columns: Tensor) -> int:
    """Count the features that at least one neuron is connected to."""
    return int(columns.unique().numel())
