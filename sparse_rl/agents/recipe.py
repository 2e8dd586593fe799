"""
Recipes: the hyperparameters of an algorithm, as plain YAML in the style of rl-baselines3-zoo.

An algorithm is a learner (``ppo``), which is dense, or ``<method>-<learner>`` (``rigl-ppo``). Its recipe is the file of
its name, if there is one; else what is in ``methods/<method>.yml`` goes on top of the learner's recipe. Either may be
the user's own, named ``module:Class``; then its recipe is the class's attribute ``recipe``, if it has one.

A recipe file may have these sections: ``extends`` (another algorithm's name, whose recipe comes first), ``default``,
one for each environment that needs its own values (its name without version and noise), and ``variants``.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import gymnasium
from gymnasium.envs.registration import get_env_id

from sparse_rl.inputs import InputError, describe
from sparse_rl.names import find, is_own, unknown
from sparse_rl.storage import parse_yaml, read_yaml_text

Recipe = dict[str, Any]

_FOLDER = resources.files("sparse_rl.agents") / "recipes"
_METHODS = _FOLDER / "methods"
_RESERVED = ("default", "extends", "variants")


#: What goes with a method and a learner of the user's own that have no recipe.
OWN_METHOD: Recipe = {"sparsity": 0.8, "distribution": "input"}
OWN_LEARNER: Recipe = {"n_timesteps": 1_000_000}


def algorithms() -> list[str]:
    """
    List the algorithms.

    :return: their names, sorted
    """
    return sorted({*_names(_FOLDER), *(f"{method}-{learner}" for method in methods() for learner in learners())})


def learners() -> list[str]:
    """
    List the learners.

    :return: their names, sorted
    """
    return sorted(name for name in _names(_FOLDER) if "-" not in name)


def methods() -> list[str]:
    """
    List the methods that go with any learner.

    :return: their names, sorted
    """
    return sorted(_names(_METHODS))


def _names(folder: Traversable) -> list[str]:
    return [entry.name.removesuffix(".yml") for entry in folder.iterdir() if entry.name.endswith(".yml")]


def flatten(
    recipe: Mapping[Any, Any], is_value: Callable[[Any], bool] = lambda entry: not isinstance(entry, Mapping)
) -> Iterator[tuple[str, Any]]:
    """
    Give the values of nested dictionaries by dotted names, as ``-params`` takes them.

    :param recipe: the dictionaries
    :param is_value: tells whether an entry is a value, and not a dictionary to go into; by default, whether it is none
    :return: names and values, in order; of an empty dictionary there are none
    """
    for key, entry in recipe.items():
        if is_value(entry):
            yield str(key), entry
        else:
            yield from ((f"{key}.{name}", value) for name, value in flatten(entry, is_value))


def learner_of(algorithm: str) -> str:
    """
    Name the learner of an algorithm: ``"sac"`` for ``"anf-sac"``.

    :param algorithm: name of a known algorithm
    :return: the name of a learner
    """
    return algorithm.rpartition("-")[2]


def check_algorithm(algorithm: str) -> None:
    """
    Check that an algorithm is known.

    :param algorithm: its name
    :raises InputError: if it is not; the message says what comes near, or how names are made
    """
    method, _, learner = algorithm.rpartition("-")
    is_known = (is_own(learner) or learner in learners()) and (not method or is_own(method) or method in methods())
    if algorithm in algorithms() or is_known:
        return
    if (lower := algorithm.lower()) in algorithms():
        raise InputError(f"Unknown algorithm {algorithm!r}. Did you mean {lower!r}?")
    elsewhere = [name for name in algorithms() if name.startswith(f"{method}-")]
    if learner in learners() and method and elsewhere:
        raise InputError(f"Unknown algorithm {algorithm!r}: {method} works only as {' or '.join(elsewhere)}.")
    if learner in learners() and method:  # only these methods come near, not everything that ends alike
        known = [name.removesuffix(f"-{learner}") for name in algorithms() if name.endswith(f"-{learner}")]
        raise InputError(f"Unknown algorithm {algorithm!r}. {unknown('method', method, known)}")
    if is_own(method):
        raise InputError(unknown("learner", learner, learners()))
    message = unknown("algorithm", algorithm, algorithms())
    if "Did you mean" not in message:
        message = (
            f"Unknown algorithm {algorithm!r}. Known: the learners {', '.join(learners())}, and each of them after one "
            f"of {', '.join(f'{method}-' for method in methods())}."
        )
    raise InputError(message)


def load_recipe(algorithm: str, environment: str, variant: str | None = None, file: Path | None = None) -> Recipe:
    """
    Merge the sections that apply to an algorithm in an environment.

    :param algorithm: name of a known algorithm
    :param environment: name of the environment without version and noise, for example ``"HalfCheetah"``
    :param variant: name of a section below ``variants``
    :param file: a recipe file of the user; it goes on top of the algorithm's own recipe
    :return: the merged keys and values; not checked yet
    :raises InputError: if the algorithm or the variant is not known, or a file is not a recipe
    """
    check_algorithm(algorithm)
    documents = _chain(algorithm, file)
    recipe: Recipe = {}
    for document in documents:
        for section in ("default", environment):
            recipe = override(recipe, document.get(section, {}))
    if variant is not None:
        variants = [document.get("variants", {}) for document in documents]
        known = {name for named in variants for name in named}
        if not known:
            raise InputError(f"{algorithm} has no variants, so there is no {variant!r}: leave it out.")
        if variant not in known:
            raise InputError(unknown(f"{algorithm} variant", variant, known))
        for named in variants:
            recipe = override(recipe, named.get(variant, {}))
    return recipe


def _chain(algorithm: str, file: Path | None) -> list[Recipe]:
    """Read the recipe files of an algorithm, the most general one first."""
    documents: list[Recipe] = []
    parent: str | None = algorithm
    if file is not None:
        try:
            text = read_yaml_text(file)
        except OSError as error:
            raise InputError(f"The recipe file {str(file)!r} cannot be read: {error}.") from error
        documents.append(_parse_file(text, str(file)))
        if "extends" in documents[0]:
            raise InputError(f"{str(file)!r} goes on top of the recipe of --algo {algorithm}: leave out 'extends'.")
    while parent is not None:
        if not is_own(parent) and parent not in algorithms():
            raise InputError(unknown("algorithm after 'extends'", parent, algorithms()))
        path, base = _FOLDER / f"{parent}.yml", None
        if is_own(parent) or not path.is_file():
            method, _, base = parent.rpartition("-")
            path = _METHODS / f"{method}.yml"
            if is_own(method):
                documents.append({"default": _own_recipe("method", method, OWN_METHOD)})
                parent = base
                continue
            if not method:
                documents.append({"default": _own_recipe("learner", parent, OWN_LEARNER)})
                break
        documents.append(_parse_file(path.read_text(encoding="utf-8"), path.name))
        parent = documents[-1].get("extends", base)
    return documents[::-1]


def _own_recipe(kind: str, name: str, default: Recipe) -> Recipe:
    """Give the recipe of a method or a learner of the user's own."""
    recipe = getattr(find(kind, name), "recipe", default)
    if not isinstance(recipe, Mapping):
        raise InputError(f"The attribute 'recipe' of {name!r} must hold a recipe's keys, not {describe(recipe)}.")
    return {**recipe, **({"method": {"name": name, **recipe.get("method", {})}} if kind == "method" else {})}


def _parse_file(text: str, name: str) -> Recipe:
    """Parse one recipe file and check its outer shape."""
    document = parse_yaml(text, f"the recipe file {name!r}")
    if not isinstance(document, dict):
        raise InputError(f"The recipe file {name!r} must hold sections such as 'default:', not {describe(document)}.")
    known = {*_RESERVED, *(get_env_id(spec.namespace, spec.name, None) for spec in gymnasium.registry.values())}
    for section, content in document.items():
        if section not in known:
            raise InputError(f"{unknown('section', section, known)} (recipe file {name!r})")
        entries = content.items() if section == "variants" and isinstance(content, dict) else [(section, content)]
        for title, keys in entries:
            if section != "extends" and not isinstance(keys, dict):
                raise InputError(f"Section {title!r} of the recipe file {name!r} must hold keys, not {describe(keys)}.")
    return document


def parse_assignments(assignments: Iterable[str]) -> Recipe:
    """
    Turn ``key:value`` words of a command line into a (nested) dictionary.

    :param assignments: for example ``["learning_rate:1e-3", "policy_kwargs.net_arch:[400, 300]"]``
    :return: for example ``{"learning_rate": 0.001, "policy_kwargs": {"net_arch": [400, 300]}}``
    :raises InputError: if a word has no colon or a value is not YAML
    """
    result: Recipe = {}
    for assignment in assignments:
        path, colon, text = assignment.partition(":")
        *outer, last = path.split(".")
        if not colon or not all([*outer, last]):
            raise InputError(f"Expected key:value, for example learning_rate:1e-3, not {assignment!r}.")
        target = result
        for name in outer:
            target = target.setdefault(name, {})
            if not isinstance(target, dict):
                raise InputError(f"{assignment!r} sets a part of {name!r}, which has been set as a whole already.")
        target[last] = parse_yaml(text, repr(assignment))
    return result


def override(recipe: Recipe, changes: Mapping[str, Any]) -> Recipe:
    """
    Give a recipe with some values changed; dictionaries are changed key by key.

    Only a dictionary with a ``name`` is taken whole: the old one's keys may mean nothing to what is named now.

    :param recipe: the recipe, which stays as it is
    :param changes: what is to differ
    :return: the changed recipe
    """
    result = dict(recipe)
    for key, value in changes.items():
        old = result.get(key)
        if isinstance(old, dict) and isinstance(value, dict) and "name" not in value:
            value = override(old, value)
        result[key] = value
    return result
