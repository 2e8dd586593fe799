"""
Names of environments: ``HalfCheetah-noise98`` is the newest HalfCheetah, with 98 % noise features.

The grammar is ``<Base>[-v<N>][-noise<percent>[-std<x>|-real|-ar|-other]][-permute<N>]``:

=================================  =====================================================================
``HalfCheetah-noise98``            98 % of the features are noise, N(0, 1)
``HalfCheetah-v4-noise99.5``       a certain version of the base environment; any percentage
``Hopper-noise90-std4``            N(0, 4^2) noise
``Walker2d-noise90-real``          noise that imitates the histograms of the real features
``HalfCheetah-noise90-ar``         noise that remembers: AR(1) processes
``HalfCheetah-noise90-other``      no noise, but what other copies of the environment show, which act at random
``Ant-noise95-permute1000000``     all features change places every 1,000,000 steps
=================================  =====================================================================

The base is any registered Gymnasium environment, with a namespace (``ns/Env``) or a module to import
(``module:Env``) where it needs one.
"""

import importlib
import re
from dataclasses import dataclass, fields, replace
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec, WrapperSpec, find_highest_version, get_env_id, parse_env_id

from sparse_rl.names import import_own, unknown

MUJOCO = (
    "Ant",
    "HalfCheetah",
    "Hopper",
    "Humanoid",
    "HumanoidStandup",
    "InvertedDoublePendulum",
    "InvertedPendulum",
    "Pusher",
    "Reacher",
    "Swimmer",
    "Walker2d",
)
PERCENTS = (50, 80, 90, 95, 98, 99)

#: What noise looks like, as an id says it; the first needs no word. The last is what other copies of the environment
#: show; the others are :data:`sparse_rl.envs.distributions.DISTRIBUTIONS`, which takes more imports.
NOISE_KINDS = ("normal", "real", "ar", "other")

_GRAMMAR = "<Base>[-v<N>][-noise<percent>[-std<x>|-real|-ar|-other]][-permute<N>], for example HalfCheetah-noise98"
_WORDS = "|".join(NOISE_KINDS[1:])
_ID = re.compile(
    r"(?P<base>(?:[\w.]+:)?(?:[\w:-]+/)?[\w:.-]+?)(?:-v(?P<version>\d+))?"
    r"(?:-noise(?P<noise>\d+(?:\.\d+)?)(?:-std(?P<std>\d+(?:\.\d+)?))?"
    rf"(?:-(?P<distribution>{_WORDS}))?)?"
    r"(?:-permute(?P<permute>\d+))?",
    re.ASCII,
)
_PART = re.compile(rf"-(noise|std|{_WORDS}|permute)[\d.]*(-|$)")  # not in the name of a base environment
_NOISY = re.compile(r"(?P<base>.+?)-?(noise)?-?(?P<percent>[1-9]\d(\.\d+)?)%?", re.IGNORECASE)  # what may be meant so
_MUJOCO = "gymnasium.envs.mujoco."


class EnvironmentIdError(gym.error.Error, ValueError):
    """An environment id that cannot be read, or whose base environment nobody has registered."""


@dataclass(frozen=True)
class EnvironmentId:
    """
    An environment id, taken apart. ``EnvironmentId.parse(str(x)) == x``.

    :param base: name of the base environment, without version
    :param version: version of the base environment; by default the newest that is registered
    :param noise: percentage of features that are noise, in [0, 100), with at most four decimals; None: no wrapper
    :param std: standard deviation of normal noise, with at most four decimals
    :param distribution: what noise looks like: one of :data:`NOISE_KINDS`
    :param permute: number of steps after which all features change places; None: no wrapper
    :raises EnvironmentIdError: if a part is out of range, or parts contradict each other

    >>> EnvironmentId.parse("Ant-noise95-permute1000000")
    EnvironmentId(base='Ant', version=None, noise=95.0, std=1.0, distribution='normal', permute=1000000)
    >>> str(EnvironmentId("HalfCheetah", noise=99.5))
    'HalfCheetah-noise99.5'
    """

    base: str
    version: int | None = None
    noise: float | None = None
    std: float = 1.0
    distribution: str = "normal"
    permute: int | None = None

    def __post_init__(self) -> None:
        match = _ID.fullmatch(self.base)
        if match is None or match["base"] != self.base or _PART.search(self.base):
            raise EnvironmentIdError(_unreadable(str(self)))
        if self.distribution not in NOISE_KINDS:
            raise EnvironmentIdError(unknown("noise distribution", self.distribution, NOISE_KINDS))
        is_normal = self.distribution == "normal"
        for problem, sentence in (
            (self.noise is not None and not 0 <= self.noise < 100, "noise is a percentage in [0, 100)"),
            (not 0 < self.std < float("inf"), "std is a positive standard deviation"),
            (
                not is_normal and self.std != 1,
                f"{self.distribution} noise has a standard deviation of its own: leave out std",
            ),
            (
                self.noise is None and not (is_normal and self.std == 1),
                "std, real, ar and other need noise before them",
            ),
            (self.permute is not None and self.permute < 1, "permute is a positive number of steps"),
            (any(round(x, 4) != x for x in (self.noise or 0.0, self.std)), "numbers have at most four decimals"),
        ):
            if problem:
                raise EnvironmentIdError(f"Environment id {str(self)!r}: {sentence}.")

    @classmethod
    def parse(cls, text: str) -> "EnvironmentId":
        """
        Take an environment id apart; whether its base environment exists is not asked.

        :param text: for example ``"HalfCheetah-noise98"``
        :return: its parts
        :raises EnvironmentIdError: if the text does not follow the grammar
        """
        match = _ID.fullmatch(text)
        if match is None:
            raise EnvironmentIdError(_unreadable(text))
        part = match.groupdict()
        return cls(
            base=part["base"],
            version=None if part["version"] is None else int(part["version"]),
            noise=None if part["noise"] is None else float(part["noise"]),
            std=float(part["std"] or 1),
            distribution=part["distribution"] or "normal",
            permute=None if part["permute"] is None else int(part["permute"]),
        )

    def __str__(self) -> str:
        text = self.base
        if self.version is not None:
            text += f"-v{self.version}"
        if self.noise is not None:
            text += f"-noise{_decimal(self.noise)}"
        if self.std != 1:
            text += f"-std{_decimal(self.std)}"
        if self.distribution != "normal":
            text += f"-{self.distribution}"
        if self.permute is not None:
            text += f"-permute{self.permute}"
        return text

    def base_spec(self) -> EnvSpec:
        """
        Look up the base environment, importing its module if it names one.

        :return: Gymnasium's spec of the base environment, of the newest version if none is given
        :raises EnvironmentIdError: if it is not registered
        """
        module, colon, _ = self.base.rpartition(":")
        if colon:
            try:
                import_own(module)
            except ModuleNotFoundError as error:
                raise EnvironmentIdError(f"Environment id {str(self)!r}: {error}. Is it installed?") from error
        found = self.base_id
        if found not in gym.registry:
            raise EnvironmentIdError(unknown("environment", found, self._near()))
        return gym.registry[found]

    def _near(self) -> set[str]:
        """List what the user may have meant: the newest version of what has this name, or all names."""
        newest = replace(self, version=None).base_id
        if newest in gym.registry:
            return {newest}
        noisy = _NOISY.fullmatch(newest)
        if noisy is not None and noisy["base"] in {spec.name for spec in gym.registry.values()}:
            return {f"{noisy['base']}-noise{noisy['percent']}"}
        specs = [spec for spec in gym.registry.values() if "-noise" not in spec.name]
        return {get_env_id(spec.namespace, spec.name, None if self.version is None else spec.version) for spec in specs}

    @property
    def base_id(self) -> str:
        """Gymnasium's id of the base environment, of the newest version that is registered if none is given."""
        try:
            namespace, name, _ = parse_env_id(self.base.rpartition(":")[2])
        except gym.error.Error as error:  # there is nothing behind the module's name
            raise EnvironmentIdError(_unreadable(str(self))) from error
        version = self.version
        if version is None and get_env_id(namespace, name, None) not in gym.registry:
            version = find_highest_version(namespace, name)
        return get_env_id(namespace, name, version)

    def spec(self) -> EnvSpec:
        """
        Describe the environment: the base environment's spec, with the wrappers added.

        :return: a spec for :func:`gymnasium.make`, that survives ``to_json`` and back
        :raises EnvironmentIdError: if the base environment is not registered
        """
        base = self.base_spec()
        wrappers = []
        if self.noise is not None:
            wrappers.append(self._noise_wrapper(round(self.noise / 100, 6)))
        if self.permute is not None:
            kwargs = {"every": self.permute, "seed": 0}
            wrappers.append(WrapperSpec("PermuteFeatures", "sparse_rl.envs.permute:PermuteFeatures", kwargs))
        if not wrappers:
            return base
        entry_point = base.entry_point
        if _is_mujoco(base):
            entry_point = "sparse_rl.envs.mujoco_log:" + str(entry_point).removeprefix(_MUJOCO).replace(":", ".")
        return replace(
            base,
            id=str(replace(self, base=self.base.rpartition(":")[2])),
            entry_point=entry_point,
            kwargs=dict(base.kwargs),
            additional_wrappers=(*base.additional_wrappers, *wrappers),
            vector_entry_point=None,  # a vectorised base environment would leave our wrappers out
        )

    def _noise_wrapper(self, fraction: float) -> WrapperSpec:
        kwargs: dict[str, Any]
        if self.distribution == "other":
            name, module, kwargs = "DistractorFeatures", "distractors", {}
        else:
            name, module, kwargs = "NoiseFeatures", "noise", {"distribution": self.distribution, "std": self.std}
        return WrapperSpec(name, f"sparse_rl.envs.{module}:{name}", {"fraction": fraction, **kwargs, "seed": None})


def _unreadable(text: str) -> str:
    """Say that an id does not follow the grammar, and which part it may be."""
    sentence = f"Cannot read the environment id {text!r}. Expected {_GRAMMAR}."
    known = {"std", "permute", *NOISE_KINDS[1:]}
    parts = [part.rstrip("0123456789.") for part in text.partition("-noise")[2].split("-")[1:]]
    return " ".join([sentence, *(unknown("part", part, known) for part in parts if part and part not in known)])


def _decimal(x: float) -> str:
    return f"{x:.4f}".rstrip("0").rstrip(".") if round(x, 4) == x else repr(x)


def _is_mujoco(spec: EnvSpec) -> bool:
    return isinstance(spec.entry_point, str) and spec.entry_point.startswith(_MUJOCO)


def is_mujoco(environment_id: str) -> bool:
    """
    Tell whether an environment is one of Gymnasium's MuJoCo environments.

    :param environment_id: its id
    :return: whether MuJoCo simulates it, and draws it
    :raises EnvironmentIdError: if the id cannot be read, or its base environment is not registered
    """
    entry_point = str((gym.registry.get(environment_id) or EnvironmentId.parse(environment_id).spec()).entry_point)
    return entry_point.startswith((_MUJOCO, "sparse_rl.envs.mujoco_log:"))


def has_time_limit(environment_id: str) -> bool:
    """
    Tell whether an environment's episodes are cut short at some time.

    :param environment_id: its id
    :return: whether it was registered with a limit
    :raises EnvironmentIdError: if the id cannot be read, or its base environment is not registered
    """
    return (
        gym.registry.get(environment_id) or EnvironmentId.parse(environment_id).spec()
    ).max_episode_steps is not None


def make(environment_id: str, **kwargs: Any) -> gym.Env[Any, Any]:
    """
    Make an environment by its id: one that follows our grammar, or any that Gymnasium knows.

    :param environment_id: for example ``"Ant-noise95-permute1000000"`` or ``"CartPole-v1"``
    :param kwargs: for :func:`gymnasium.make` and the base environment, for example ``render_mode``
    :return: the environment
    :raises EnvironmentIdError: if the id cannot be read, or its base environment is not registered
    """
    spec = gym.registry.get(environment_id) or EnvironmentId.parse(environment_id).spec()
    if _is_mujoco(spec):
        importlib.import_module("sparse_rl.envs.mujoco_log")
    return gym.make(spec, **kwargs)


def register_environments() -> None:
    """Register the MuJoCo environments with 50, 80, 90, 95, 98 and 99 % noise with Gymnasium, unless done already."""
    for base in MUJOCO:
        for percent in PERCENTS:
            spec = EnvironmentId(base, noise=percent).spec()
            if spec.id not in gym.registry:
                gym.register(**{field.name: getattr(spec, field.name) for field in fields(spec) if field.init})
