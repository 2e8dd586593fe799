"""An environment whose state is put back goes on as if it had never been elsewhere, to the bit."""

from collections.abc import Callable
from enum import IntEnum
from functools import partial
from types import MethodType
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from sparse_rl.checkpoints import pack, unpack
from sparse_rl.envs import make
from sparse_rl.envs.state import StateError, restore, state_of
from sparse_rl.storage import load_tensors, save_tensors

MUJOCO = ("Ant", "HalfCheetah", "Hopper", "Humanoid", "HumanoidStandup", "InvertedDoublePendulum", "InvertedPendulum")
MUJOCO += ("Pusher", "Reacher", "Swimmer", "Walker2d")
IDS = [
    *(f"{name}-v5" for name in MUJOCO),
    "Ant-v4", "Humanoid-v4", "Pendulum-v1", "MountainCarContinuous-v0", "CartPole-v1", "Acrobot-v1",
    "HalfCheetah-noise98", "Hopper-noise80-other", "HalfCheetah-noise90-ar", "Walker2d-noise90-real",
    "Reacher-noise80-permute60",
]  # fmt: skip


def actions(env: gym.Env[Any, Any], count: int, seed: int) -> list[Any]:
    space = env.action_space
    generator = np.random.default_rng(seed)
    if isinstance(space, gym.spaces.Discrete):
        return generator.integers(space.n, size=count).tolist()
    assert isinstance(space, gym.spaces.Box)
    return list(generator.uniform(space.low, space.high, (count, *space.shape)).astype(np.float32))


def play(env: gym.Env[Any, Any], count: int, seed: int) -> list[Any]:
    """Take some steps, and note all that can be seen, also of the next episodes."""
    seen: list[Any] = []
    for action in actions(env, count, seed):
        step = env.step(action)
        seen.append(step)
        if step[2] or step[3]:
            seen.append(env.reset())
    return seen


def bits(value: Any) -> Any:
    """Make something of it that can be compared, NaN included."""
    if isinstance(value, dict):
        return {key: bits(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [bits(each) for each in value]
    return np.asarray(value).tobytes()


@pytest.mark.filterwarnings("ignore:.*out of date.*")
@pytest.mark.parametrize("name", IDS)
def test_it_goes_on_where_it_was(tmp_path, name: str) -> None:
    env = make(name)
    env.reset(seed=3)
    env.action_space.seed(4)
    play(env, 73, seed=0)
    state = state_of(env)
    assert state["obstacles"] == []
    save_tensors(tmp_path / "state.safetensors", pack(state))
    expected = bits(play(env, 150, seed=1))

    other = make(name)
    other.reset(seed=99)
    play(other, 20, seed=2)
    tensors, _ = load_tensors(tmp_path / "state.safetensors")
    restore(other, unpack(tensors))
    assert bits(play(other, 150, seed=1)) == expected
    assert bits(other.action_space.sample()) == bits(env.action_space.sample())
    for each in (env, other):
        each.close()


def test_a_state_can_be_kept_again(tmp_path) -> None:
    """What was restored from a file is as good as what was there before."""
    env = make("Pendulum-v1")
    env.reset(seed=3)
    save_tensors(tmp_path / "state.safetensors", pack(state_of(env)))
    tensors, _ = load_tensors(tmp_path / "state.safetensors")
    restore(env, unpack(tensors))
    assert state_of(env)["obstacles"] == []


def test_the_state_of_another_environment(tmp_path) -> None:
    state = state_of(make("HalfCheetah-noise90"))
    with pytest.raises(StateError, match="that of another environment"):
        restore(make("HalfCheetah-v5"), state)
    state = state_of(make("HalfCheetah-v5"))
    with pytest.raises(StateError, match="another environment"):
        restore(make("Hopper-v5"), state)


class Simulator:
    def advance(self) -> None:
        """Change something."""


class Direction(IntEnum):
    UP = 1


class Odd(gym.Env[np.ndarray[Any, Any], np.ndarray[Any, Any]]):
    def __init__(self, **attributes: Any) -> None:
        self.observation_space = gym.spaces.Box(-1, 1, (2,), np.float32)
        self.action_space = gym.spaces.Box(-1, 1, (1,), np.float32)
        vars(self).update(attributes)


SHARED = np.arange(3.0)


@pytest.mark.parametrize(
    ("attributes", "obstacle"),
    [
        ({"device": object()}, "Odd.device (a object)"),
        ({"devices": [1, object()]}, "Odd.devices (a object)"),
        ({"a": SHARED, "b": SHARED}, "Odd.b (the same ndarray as elsewhere)"),
        ({"a": SHARED, "b": SHARED[:2]}, "Odd.b (a view of another array)"),
        ({"words": np.array(["a", None])}, "Odd.words (an array of objects)"),
        ({"memory": np.frombuffer(bytearray(8))}, "Odd.memory (a view of other memory)"),
        ({"names": np.array(["a", "b"])}, "Odd.names (an array of <U1)"),
        ({"waves": np.zeros(2, np.complex64)}, "Odd.waves (an array of complex64)"),
        ({"swapped": np.zeros(2, ">f4")}, "Odd.swapped (an array of >f4)"),
        ({"direction": Direction.UP}, "Odd.direction (a Direction)"),
        ({"hidden": np.ma.masked_array([1.0, 2.0], [True, False])}, "Odd.hidden (a MaskedArray)"),
        ({"env": Simulator()}, "Odd.env (a Simulator)"),
        ({"advance": Simulator().advance}, "Odd.advance (a method)"),
        ({"draw": np.random.default_rng(7).normal}, "Odd.draw (a method)"),
    ],
)
def test_what_cannot_be_kept_is_named(attributes: dict[str, Any], obstacle: str) -> None:
    assert state_of(Odd(**attributes))["obstacles"] == [obstacle]


def test_around_an_obstacle_all_else_is_kept() -> None:
    """Counters and generators are where they would be, so that the next episode is the next one."""
    env = gym.wrappers.TimeLimit(Odd(device=object(), count=1), 5)
    env.unwrapped.reset(seed=1)
    env.unwrapped.np_random.random(3)
    env._elapsed_steps = 3
    state = state_of(env)
    other = gym.wrappers.TimeLimit(Odd(device=object(), count=2), 5)
    other.unwrapped.reset(seed=2)
    restore(other, state)
    assert other._elapsed_steps == 3
    assert other.unwrapped.count == 2  # it may belong to the device
    assert other.unwrapped.np_random.random() == env.unwrapped.np_random.random()


def test_disjoint_parts_of_an_array_are_plain() -> None:
    whole = np.arange(6.0)
    state = state_of(Odd(first=whole[::2], second=whole[1::2]))
    assert state["obstacles"] == []
    assert state["layers"][0]["values"]["second"].tolist() == [1, 3, 5]


def test_time_grows_as_the_number_of_arrays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each array is compared with those that could share its memory, not with all others."""
    comparisons = []
    shares_memory = np.shares_memory
    monkeypatch.setattr(np, "shares_memory", lambda *arrays: comparisons.append(1) or shares_memory(*arrays))
    assert state_of(Odd(particles=[np.zeros(3) for _ in range(2000)]))["obstacles"] == []
    assert not comparisons


class Slotted(Odd):
    __slots__ = ("__secret", "position")

    def __init__(self, position: list[float] | None = None, secret: int = 0) -> None:
        super().__init__()
        self.__secret = secret
        if position is not None:
            self.position = position

    @property
    def secret(self) -> int:
        return self.__secret


def counted(method: Callable[..., float]) -> Callable[..., float]:
    """Decorate a method, and let it lose its name."""

    def wrapper(self: Any) -> float:
        return method(self)

    return wrapper


class Gears(Odd):
    """What a step does is an attribute, as in a state machine."""

    @counted
    def slow(self) -> float:
        return 1.0

    @counted
    def fast(self) -> float:
        return 5.0

    def __reverse(self) -> float:
        return -1.0

    def back(self) -> Callable[[], float]:
        return self.__reverse


def test_methods_that_change_places() -> None:
    for move, speed in (("fast", 5.0), ("_Gears__reverse", -1.0)):
        env, other = Gears(), Gears()
        env.move, other.move = getattr(env, move), other.slow
        state = state_of(env)
        assert state["obstacles"] == []
        assert restore(other, state) == []
        assert other.move() == speed
        assert other.move.__self__ is other


def test_a_method_that_its_class_does_not_know_is_an_obstacle() -> None:
    env = Gears()
    env.move = MethodType(partial(Gears.slow), env)
    assert state_of(env)["obstacles"] == ["Gears.move (a method)"]


@pytest.mark.parametrize(("before", "now"), [(Gears, Odd), (len, max), (np, gym), (play, actions), (play, None)])
def test_functions_from_elsewhere_are_compared(before: object, now: object) -> None:
    """They are not looked up by what a file says, which may be a stranger's."""
    state = state_of(Odd(tool=before))
    assert restore(Odd(tool=before), state) == []
    other = Odd(tool=now)
    assert restore(other, state) == [f"Odd.tool ({state['layers'][0]['names']['tool']})"]
    assert other.tool is now


@pytest.mark.parametrize("word", ["its __init_subclass__", "its nothing", "its np_random", "os.system", "its "])
def test_a_file_cannot_say_what_is_called(word: str) -> None:
    state = state_of(Gears(tool=play))
    state["layers"][0]["names"]["tool"] = word
    assert restore(Gears(tool=play), state) == [f"Gears.tool ({word})"]


def test_states_of_older_versions_have_no_names() -> None:
    state = state_of(Odd(count=3, tool=play))
    del state["layers"][0]["names"]
    other = Odd(count=1, tool=play)
    assert restore(other, state) == []
    assert other.count == 3


def test_attributes_in_slots() -> None:
    other = Slotted(secret=2)
    restore(other, state_of(Slotted([1.0, 2.0], secret=1)))
    assert (other.position, other.secret) == ([1.0, 2.0], 1)
    restore(other, state_of(Slotted(secret=3)))
    assert not hasattr(other, "position")
    assert state_of(Slotted([object()]))["obstacles"] == ["Slotted.position (a object)"]


def test_attributes_come_and_go() -> None:
    env, other = Odd(a=1, b={1: (2, [3.0])}), Odd(a=2, c=3)
    restore(other, state_of(env))
    assert (other.a, other.b) == (1, {1: (2, [3.0])})
    assert not hasattr(other, "c")
