"""Whatever goes into a checkpoint comes out of it: equal, and of the same type."""

from collections import deque
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch as th
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from sparse_rl.checkpoints import pack, unpack
from sparse_rl.checkpoints.generators import keep_generators, restore_generators
from sparse_rl.storage import StorageError, load_tensors, save_tensors

DTYPES = st.sampled_from([np.float32, np.float64, np.int32, np.int64, np.uint8, np.uint32, np.uint64, np.bool_])
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**127), 2**127),
    st.floats(),
    st.text(),
    DTYPES.flatmap(lambda dtype: arrays(dtype, st.integers(0, 3).map(lambda n: (n, 2)))),
    st.floats().map(np.float64),
    st.lists(st.floats(), min_size=17, max_size=20),
)
TREES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.lists(inner, max_size=4).map(lambda values: deque(values, 5)),
        st.sets(st.integers(), max_size=4),
        st.dictionaries(st.one_of(st.text(), st.integers()), inner, max_size=4),
    ),
    max_leaves=12,
)


def assert_same(a: Any, b: Any) -> None:
    assert type(a) is type(b)
    if isinstance(a, np.ndarray | np.generic):
        assert (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())
    elif isinstance(a, dict):
        assert list(a) == list(b)
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, list | tuple | deque):
        assert len(a) == len(b)
        for each in zip(a, b, strict=True):
            assert_same(*each)
    else:
        assert a == b or a != a


def through_a_file(tree: Any) -> Any:
    with TemporaryDirectory() as folder:
        save_tensors(Path(folder) / "tree.safetensors", pack(tree))
        return unpack(load_tensors(Path(folder) / "tree.safetensors")[0])


@given(TREES)
def test_a_tree_comes_back(tree: Any) -> None:
    assert_same(tree, through_a_file(tree))


def test_what_is_the_same_comes_back_as_the_same() -> None:
    tensor = th.arange(3)
    first, second = through_a_file([tensor, tensor])
    assert first is second
    assert first.tolist() == [0, 1, 2]


def test_other_things_are_refused() -> None:
    with pytest.raises(TypeError, match="A object cannot be kept"):
        pack([object()])


@pytest.mark.parametrize(
    "text", ["{", '{"array": "7"}', '{"code": "x"}', '{"array": "0", "list": []}', '{"dict": [1]}']
)
def test_what_is_no_tree(text: str) -> None:
    with pytest.raises(StorageError):
        unpack({"tree": th.tensor(list(text.encode()), dtype=th.uint8)})


def test_generators_go_on() -> None:
    import random

    def draw() -> tuple[float, float, float]:
        return random.random(), float(np.random.random()), float(th.rand(()))

    np.random.standard_normal()  # of which it keeps a second one
    state = through_a_file(keep_generators())
    expected = [draw() for _ in range(3)], float(np.random.standard_normal())
    restore_generators(state)
    assert ([draw() for _ in range(3)], float(np.random.standard_normal())) == expected
