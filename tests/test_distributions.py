"""How weights are shared out among layers: published numbers, and totals that are met exactly."""

import re
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_rl.topology import (
    SET,
    Rewiring,
    Topology,
    distribution,
    erdos_renyi,
    erk,
    input_layer,
    uniform,
)

quick = settings(max_examples=40, deadline=None)


CHEETAH = [(256, 17), (256, 256), (6, 256)]


def test_anf_keeps_51_weights_per_feature_of_halfcheetah_noise98() -> None:
    counts = input_layer([(256, 850), (256, 256), (12, 256)], 0.8)
    assert counts == [43520, 65536, 3072]
    assert counts[0] / 850 == 51.2


@pytest.mark.parametrize(
    ("features", "actions", "dense", "anf", "truncated"),
    [
        # The paper's set-up: two hidden layers of 256; the actor's output has mean and deviation. `truncated` is what
        # the authors' int((1 - 0.8) * n) makes of it: up to one weight less in each of the three sparse layers.
        (17, 6, 216_320, 203_418, 203_416),  # HalfCheetah without noise
        (85, 6, 268_544, 213_862, 213_861),
        (170, 6, 333_824, 226_918, 226_917),
        (340, 6, 464_384, 253_030, 253_029),
        (850, 6, 856_064, 331_366, 331_365),  # noise98
        (1700, 6, 1_508_864, 461_926, 461_925),  # noise99
        (550, 3, 622_592, 283_444, 283_441),  # Hopper-noise98
        (1100, 3, 1_044_992, 367_924, 367_921),  # Hopper-noise99
        (7520, 17, 5_989_888, 1_362_636, 1_362_635),  # Humanoid-noise95
    ],
)
def test_weights_of_an_actor_and_two_critics(features: int, actions: int, dense: int, anf: int, truncated: int) -> None:
    inputs = (features, features + actions, features + actions)
    outputs = (2 * actions, 1, 1)

    def total(sparsity: float) -> int:
        networks = [[(256, n_in), (256, 256), (n_out, 256)] for n_in, n_out in zip(inputs, outputs, strict=True)]
        return sum(sum(input_layer(network, sparsity)) for network in networks)

    assert total(0) == dense
    assert total(0.8) == anf
    assert dense - sum(256 * n - int((1 - 0.8) * 256 * n) for n in inputs) == truncated


def test_erdos_renyi_of_small_policies_worked_by_hand() -> None:
    # 71,424 weights in all. The output keeps its 1,536; the others share what is left, 273 parts and 512.
    # At 60 % the input layer would get 9,402 of the 27,033.6, but has only 4,352: it becomes dense.
    assert erdos_renyi(CHEETAH, 0.6, dense=[2]) == [4352, round(27033.6 - 4352), 1536]
    # At 85 % it is not full: 10,713.6 - 1,536 = 9,177.6 in the same proportion.
    assert erdos_renyi(CHEETAH, 0.85, dense=[2]) == [round(9177.6 * 273 / 785), round(9177.6 * 512 / 785), 1536]


def test_uniform_sparsity_pays_for_the_dense_output_layer() -> None:
    shapes = [(256, 23), (256, 256), (1, 256)]
    counts = uniform(shapes, 0.9, dense=[2])
    sparsities = [1 - count / (n * m) for count, (n, m) in zip(counts, shapes, strict=True)]
    assert sparsities == pytest.approx([0.9032, 0.9032, 0.0], abs=1e-4)  # the ANF code's "90.3 / 90.3 / 0"
    # 588.8, 6553.6 and 25.6 of 7168: one of them has to be rounded down.
    assert uniform(shapes, 0.9) == [589, 6554, 25]


linear_shapes = st.lists(st.tuples(st.integers(1, 300), st.integers(1, 300)), min_size=1, max_size=5)


@quick
@given(linear_shapes, st.floats(0, 0.99))
def test_erk_is_erdos_renyi_for_linear_layers(shapes: list[tuple[int, int]], sparsity: float) -> None:
    def share_out(kind: Callable[..., list[int]]) -> list[int] | str:
        try:
            return kind(shapes, sparsity)
        except ValueError as error:
            return str(error)

    assert share_out(erk) == share_out(erdos_renyi)


def test_erk_counts_kernel_dimensions_and_erdos_renyi_does_not() -> None:
    shapes = [(32, 16, 3, 3), (64, 32, 1, 1)]
    # By hand: erk gives each layer factor * sum(shape), that is 54 and 98 parts of (4608 + 2048) / 10 weights;
    # erdos_renyi gives it factor * (n_in + n_out) * kernel size, that is 48 * 9 and 96 parts.
    # They are 236.5 and 429.1, or 544.6 and 121.0, and make 666 in all.
    assert erk(shapes, 0.9) == [237, 429]
    assert erdos_renyi(shapes, 0.9) == [round(665.6 * 432 / 528), round(665.6 * 96 / 528)]


@quick
@given(linear_shapes, st.floats(0, 0.95), st.sampled_from(["uniform", "erdos_renyi", "erk"]), st.data())
def test_the_total_is_met_and_no_layer_is_overfull(
    shapes: list[tuple[int, int]], sparsity: float, name: str, data: st.DataObject
) -> None:
    sizes = [n * m for n, m in shapes]
    dense = data.draw(st.sets(st.integers(0, len(shapes) - 1), max_size=len(shapes)))
    try:
        counts = distribution(name)(shapes, sparsity, dense)
    except ValueError as error:
        assert re.search("cannot be reached|without a single weight", str(error))  # noqa: PT017
        return
    assert all(1 <= count <= size for count, size in zip(counts, sizes, strict=True))
    assert all(counts[i] == sizes[i] for i in dense)
    assert abs(sum(counts) - (1 - sparsity) * sum(sizes)) < 0.5 + 1e-6


def test_a_layer_that_would_be_overfull_becomes_dense_and_the_others_give_up_nothing_more() -> None:
    shapes = [(2, 300), (300, 300), (300, 2)]
    counts = erdos_renyi(shapes, 0.5)
    assert counts == [600, 45600 - 1200, 600]
    assert sum(counts) == 0.5 * sum(n * m for n, m in shapes)


@pytest.mark.parametrize("name", ["input", "uniform", "erdos_renyi", "erk"])
def test_sparsity_zero_is_dense(name: str) -> None:
    sizes = [n * m for n, m in CHEETAH]
    for dense in ([], [2], [1, 2]) if name == "input" else ([], [2], [0, 1, 2]):
        assert distribution(name)(CHEETAH, 0.0, dense) == sizes


@pytest.mark.parametrize(
    ("share_out", "message"),
    [
        (lambda: uniform(CHEETAH, 1.0), "Sparsity must lie in [0, 1), not 1.0"),
        (lambda: erk(CHEETAH, -0.1), "Sparsity must lie in [0, 1), not -0.1"),
        (lambda: input_layer(CHEETAH, float("nan")), "Sparsity must lie in [0, 1), not nan"),
        (lambda: input_layer(CHEETAH, 0.8, [0]), "cannot be both the only sparse layer and dense"),
        (lambda: input_layer([(2, 3), (4, 2)], 0.99), "leaves the layer of shape (2, 3) without a single weight"),
        (lambda: uniform([(10, 10), (2, 2)], 0.9), "leaves the layer of shape (2, 2) without a single weight"),
        (
            lambda: uniform(CHEETAH, 0.99, [1]),
            "Sparsity 0.99 cannot be reached: the layers that stay dense already hold 65536 of 71424 weights.",
        ),
        (lambda: uniform(CHEETAH, 0.5, [0, 1, 2]), "cannot be reached: the layers that stay dense already hold 71424"),
        (
            lambda: distribution("erdos-renyi"),
            "Unknown sparsity distribution 'erdos-renyi'. Did you mean 'erdos_renyi'?",
        ),
        (lambda: distribution("magic"), "Known: erdos_renyi, erk, input, uniform."),
    ],
)
def test_impossible_distributions_are_refused(share_out: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        share_out()


def test_a_rewiring_is_a_value() -> None:
    topology = Topology.random((5, 6), 10)
    rewiring = SET(0.5).propose(topology, torch.randn(10), 1)
    with pytest.raises(AttributeError):
        rewiring.after = topology  # type: ignore[misc]
    assert isinstance(rewiring, Rewiring)
