"""What the values of a recipe may be. Every message is a sentence for the person who wrote the recipe."""

import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any

from sparse_rl.inputs import Check, Choice, InputError, Number, describe
from sparse_rl.names import find, is_own, unknown


def _is(kind: type, description: str) -> Check:
    def check(key: str, value: Any) -> Any:
        if not isinstance(value, kind):
            raise InputError(f"{key} must be {description}, not {describe(value)}.")
        return value

    return check


def _either(check: Check, is_word: Callable[[str], bool]) -> Check:
    """Accept certain words besides what ``check`` accepts."""
    return lambda key, value: value if isinstance(value, str) and is_word(value) else check(key, value)


def _sparsity(key: str, value: Any) -> Any:
    fraction = Number(0, 1, below=True)
    if isinstance(value, dict):
        return {Choice(("actor", "critic"))(f"part of {key}", part): fraction(key, x) for part, x in value.items()}
    return fraction(key, value)


def _train_freq(key: str, value: Any) -> Any:
    if isinstance(value, list | tuple) and len(value) == 2:
        return [Number(1, whole=True)(key, value[0]), Choice(("step", "episode"))(f"unit of {key}", value[1])]
    return Number(1, whole=True)(key, value)


def _moment(key: str, value: Any) -> int | float:
    """Check a time in a run: a gradient step, or, below 1 or 1.0, a fraction of all gradient steps."""
    if isinstance(value, float) and 0 < value <= 1:
        return value
    try:
        return Number(0, whole=True)(key, value)
    except InputError as error:
        raise InputError(
            f"{key} must be a gradient step, or a fraction of the run up to 1.0, not {describe(value)}."
        ) from error


def _lambdas(key: str, value: Any) -> list[float]:
    if not isinstance(value, list | tuple) or not value:
        raise InputError(f"{key} must be a list of numbers, one for each of the first layers, not {describe(value)}.")
    return [Number(0, above=True)(f"each of {key}", each) for each in value]


_COUNT = Number(1, whole=True)
_FRACTION = Number(0, 1)
_MAPPING = _is(dict, "a mapping such as {key: value}")
_TRUTH = _is(bool, "true or false")

#: The arguments of Stable-Baselines3's ``VecNormalize``.
NORMALIZE: Mapping[str, Check] = {
    "norm_obs": _TRUTH,
    "norm_reward": _TRUTH,
    "clip_obs": Number(0, above=True),
    "clip_reward": Number(0, above=True),
    "gamma": _FRACTION,
    "epsilon": Number(0, above=True),
}


def _normalize(key: str, value: Any) -> dict[str, Any] | None:
    if isinstance(value, bool):
        return {} if value else None
    if not isinstance(value, dict):
        raise InputError(f"{key} must be true, false or a mapping such as {{norm_reward: false}}, not {value!r}.")
    return _settings(key, value, NORMALIZE)


# Here and below, words that other rooms define are written out once more: command lines, help and `plot` read recipes
# without PyTorch, which those rooms import. tests/test_recipes.py ties each list to its original.
# What decides a run but is no argument of the learner: rl-baselines3-zoo's keys, then this project's.
RUN_KEYS: Mapping[str, Check] = {
    "n_timesteps": _COUNT,
    "n_envs": _COUNT,
    "policy": Choice(("MlpPolicy",)),
    "normalize": _normalize,
    "noise_type": Choice(("normal", "ornstein-uhlenbeck")),
    "noise_std": Number(0),
    "eval_freq": Number(-1, whole=True),
    "eval_episodes": _COUNT,
    "method": _MAPPING,
    "optimizer": lambda key, value: value if isinstance(value, str) else _MAPPING(key, value),
    "screening": lambda key, value: _settings(key, value, _SCREENING),
    "n_steps_delay": _moment,
    "dynamic_capacity": lambda key, value: _settings(key, value, _DYNAMIC_CAPACITY),
    "sparsity": _sparsity,
    "initial_sparsity": _sparsity,
    "distribution": Choice(("input", "uniform", "erdos_renyi", "erk")),
    "layers": Choice(("input", "hidden", "all")),
    "lambdas": _lambdas,
    "initialisation": Choice(("dense", "sparse")),
    "kernel": Choice(("auto", "numba", "scatter")),
    "replay": Choice(("redrawn", "observed")),
}
# What only sparse networks have.
SPARSE_KEYS = ("sparsity", "initial_sparsity", "distribution", "layers", "lambdas", "initialisation", "kernel")
# How networks are made and see observations: those of a trained agent are as they are. (Which kernel computes them is
# free, and so is the optimizer, though policies take it as their argument.)
NETWORK_KEYS = (*(key for key in SPARSE_KEYS if key != "kernel"), "policy_kwargs", "use_sde", "normalize")
OPTIMIZER_KEYS = ("optimizer_class", "optimizer_kwargs")
_REPLACING: Mapping[str, Check] = {
    "drop_fraction": _FRACTION,
    "update_interval": _COUNT,
    "decay": Choice(("constant", "cosine")),
    "stop": _moment,
}
_RESIZING: Mapping[str, Check] = {"begin": _moment, "end": _moment, "update_interval": _COUNT}
#: The methods by name: what :mod:`sparse_rl.topology` calls the class of each, and its settings.
METHODS: Mapping[str, tuple[str, Mapping[str, Check]]] = {
    "static": ("Static", {}),
    "set": ("SET", _REPLACING),
    "signed_set": ("SignedSET", _REPLACING),
    "rigl": ("RigL", _REPLACING),
    "gmp": ("GradualPruning", _RESIZING),
    "ne": ("NeuroplasticExpansion", {**_RESIZING, "prune_ratio": Number(0, 1, below=True)}),
}
#: Those that change the number of active weights.
RESIZING_METHODS = tuple(name for name, (_, settings) in METHODS.items() if "end" in settings)
#: Settings that are times in a run; below 1, or as 1.0, they are fractions of all its gradient steps.
MOMENTS = ("stop", "begin", "end")
# Settings besides those that all share: the learner's `learning_rate`, and `optimizer_kwargs` below `policy_kwargs`.
OPTIMIZERS: Mapping[str, Mapping[str, Check]] = {
    "adam": {},
    "smet-adam": {
        "warmup_steps": Number(0, whole=True),
        "warmup": Choice(("momentum", "update")),
        "density_exponent": Number(0, 10),
    },
}
_SCREENING: Mapping[str, Check] = {"level": Number(0, 1, above=True, below=True)}
_DYNAMIC_CAPACITY: Mapping[str, Check] = {
    "threshold": Number(0, above=True),
    "interval": _COUNT,
    "minimum": _COUNT,
    "oldest": _COUNT,
    "drop_fraction": Number(0, 1, above=True),
}
# Ranges of the learners' arguments; those that are not here are checked by the type of their default.
_LEARNER_KEYS: Mapping[str, Check] = {
    "learning_rate": Number(0, above=True),
    "buffer_size": _COUNT,
    "learning_starts": Number(0, whole=True),
    "batch_size": Number(1, 10**8, whole=True),  # more would end as an error of memory, when learning starts
    "tau": _FRACTION,
    "gamma": _FRACTION,
    "train_freq": _train_freq,
    "gradient_steps": Number(-1, whole=True),
    "n_steps": _COUNT,
    "ent_coef": _either(Number(0), lambda word: word == "auto" or _is_initial_value(word)),
    "target_entropy": _either(Number(), lambda word: word == "auto"),
    "target_update_interval": _COUNT,
    "policy_delay": _COUNT,
    "target_policy_noise": Number(0),
    "target_noise_clip": Number(0),
    "n_epochs": _COUNT,
    "n_critic_updates": _COUNT,
    "cg_max_steps": _COUNT,
    "cg_damping": Number(0),
    "line_search_max_iter": _COUNT,
    "line_search_shrinking_factor": Number(0, 1, above=True, below=True),
    "sub_sampling_factor": _COUNT,
    "gae_lambda": _FRACTION,
    "clip_range": Number(0, above=True),
    "clip_range_vf": Number(0, above=True),
    "vf_coef": Number(0),
    "max_grad_norm": Number(0, above=True),
    "target_kl": Number(0, above=True),
    "rms_prop_eps": Number(0, above=True),
    "exploration_fraction": _FRACTION,
    "exploration_initial_eps": _FRACTION,
    "exploration_final_eps": _FRACTION,
    "top_quantiles_to_drop_per_net": Number(0, whole=True),
    "stats_window_size": _COUNT,
    "policy_kwargs": _MAPPING,
    "replay_buffer_kwargs": _MAPPING,
}


def _is_initial_value(word: str) -> bool:
    number = re.fullmatch(r"auto_((?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:e[-+]?[0-9]+)?)", word)
    return number is not None and 0 < float(number[1]) < float("inf")


def check_recipe(recipe: Mapping[str, Any], learner_defaults: Mapping[str, Any]) -> dict[str, Any]:
    """
    Check all keys and values of a recipe.

    :param recipe: the recipe
    :param learner_defaults: the arguments that the learner's constructor takes from a recipe, with their defaults
    :return: the recipe with whole numbers as ``int``
    :raises InputError: at the first key that is not known, or value that is not allowed
    """
    result = {}
    for key, value in recipe.items():
        if key not in RUN_KEYS and key not in learner_defaults:
            if key in _LEARNER_KEYS:
                raise InputError(
                    f"{key!r} is a key of other learners; those of this one are {', '.join(learner_defaults)}."
                )
            raise InputError(unknown("recipe key", key, {*RUN_KEYS, *learner_defaults}))
        check = RUN_KEYS.get(key) or _LEARNER_KEYS.get(key) or _by_type(learner_defaults[key])
        if key == "ent_coef" and isinstance(learner_defaults[key], float):  # only where it is learnt may it be a word
            check = Number(0)
        result[key] = check(key, value)
    if "method" in result:
        result["method"] = check_method(result["method"])
    if "optimizer" in result:
        result["optimizer"] = check_optimizer(result["optimizer"])
    return result


def check_method(method: Mapping[str, Any]) -> dict[str, Any]:
    """
    Check the description of a sparse training method.

    :param method: its ``name`` and its settings
    :return: the same, with whole numbers as ``int``
    :raises InputError: if the name or a setting is not known, or a value is not allowed
    """
    name: Any = method.get("name")
    known = [name] if is_own(name) else METHODS
    return _check_named("method", method, {each: method_settings(each) for each in known})


def method_settings(name: str) -> Mapping[str, Check]:
    """
    List the settings of a sparse training method. The module of one of the user's own is imported.

    :param name: its name: one of :data:`METHODS`, or ``module:Class``
    :return: the checks of the settings, by their names
    :raises ValueError: if there is no such class, or it cannot be made
    """
    return _own_settings(name) if is_own(name) else METHODS[name][1]


def _own_settings(name: str) -> Mapping[str, Check]:
    """List the settings of a method of the user's own: the arguments of its class, by name or by type of default."""
    known = {**_REPLACING, **_RESIZING}
    try:
        parameters = inspect.signature(find("method", name)).parameters
    except TypeError as error:
        raise InputError(f"The method {name!r} cannot be created: {error}.") from error
    return {key: known.get(key) or _by_type(p.default) for key, p in parameters.items()}


def check_optimizer(optimizer: str | Mapping[str, Any]) -> dict[str, Any]:
    """
    Check the description of an optimizer.

    :param optimizer: its name, or its ``name`` and its settings
    :return: its name and its settings, with whole numbers as ``int``
    :raises InputError: if the name or a setting is not known, or a value is not allowed
    """
    return _check_named("optimizer", {"name": optimizer} if isinstance(optimizer, str) else optimizer, OPTIMIZERS)


def _check_named(kind: str, given: Mapping[str, Any], known: Mapping[str, Mapping[str, Check]]) -> dict[str, Any]:
    name = Choice(tuple(known))(f"{kind} name", given.get("name"))
    checks = known[name]
    result: dict[str, Any] = {"name": name}
    for key, value in given.items():
        if key == "name":
            continue
        if key not in checks:
            if not checks:
                raise InputError(f"The {kind} {name!r} has no settings, so {key!r} cannot be set.")
            raise InputError(unknown(f"setting of the {kind} {name!r}", key, checks))
        result[key] = checks[key](key, value)
    if "end" in checks and "end" not in result and not is_own(name):
        raise InputError(f"The method {name!r} needs the setting 'end': when its change is complete.")
    return result


def _settings(key: str, value: Any, known: Mapping[str, Check]) -> dict[str, Any]:
    """Check the settings of something that is asked for by its key: an empty mapping for the defaults."""
    settings = _MAPPING(key, value)
    for setting in settings:
        if setting not in known:
            raise InputError(unknown(f"setting of {key}", setting, known))
    return {setting: known[setting](setting, each) for setting, each in settings.items()}


def _by_type(default: Any) -> Check:
    if isinstance(default, bool):
        return _is(bool, "true or false")
    if isinstance(default, int):
        return Number(whole=True)
    return Number() if isinstance(default, float) else lambda key, value: value
