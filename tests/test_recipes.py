"""Recipes: every built-in one builds an agent, and every mistake in one gets a sentence."""

from pathlib import Path
from typing import Any

import gymnasium
import pytest
from plan_cases import settle

from sparse_rl import features, topology
from sparse_rl.agents.build import in_gradient_steps, learner_defaults, make_method, make_model
from sparse_rl.agents.checks import OPTIMIZERS, RUN_KEYS, check_recipe, method_settings
from sparse_rl.agents.recipe import algorithms, learner_of, load_recipe, override, parse_assignments
from sparse_rl.commands import features as features_command
from sparse_rl.commands.train_arguments import make_parser, read_plan
from sparse_rl.envs.distributions import DISTRIBUTIONS
from sparse_rl.envs.ids import NOISE_KINDS
from sparse_rl.inputs import Choice, InputError, Number
from sparse_rl.kernels import KERNELS
from sparse_rl.nn import SMETAdam, sparse_layers
from sparse_rl.nn.smet_adam import WARM_UPS
from sparse_rl.nn.sparsify import INITIALISATIONS
from sparse_rl.sb3.policies import LAYERS
from sparse_rl.storage import parse_yaml
from sparse_rl.topology.schedules import DECAYS
from sparse_rl.training.vec_envs import make_vec_env

METHODS = ["anf", "ds", "gmp", "ne", "rigl", "rlx2", "screened", "set", "static"]
# Those on the fast path; test_learner_recipes.py has the others.
ALGORITHMS = sorted([*(f"{method}-{learner}" for method in METHODS for learner in ("sac", "td3")), "sac", "td3"])


def test_algorithms() -> None:
    assert [name for name in algorithms() if learner_of(name) in ("sac", "td3")] == ALGORITHMS


def test_words_that_are_written_out_once_more_are_those_of_their_originals() -> None:
    """Recipes are checked, and help is printed, without PyTorch."""

    def words(check: Any) -> set[str]:
        assert isinstance(check, Choice)
        return set(check.words)

    assert words(RUN_KEYS["distribution"]) == set(topology.DISTRIBUTIONS)
    assert words(RUN_KEYS["layers"]) == set(LAYERS)
    assert words(RUN_KEYS["initialisation"]) == set(INITIALISATIONS)
    assert words(RUN_KEYS["kernel"]) == {"auto", *KERNELS}
    assert words(method_settings("rigl")["decay"]) == set(DECAYS)
    assert words(OPTIMIZERS["smet-adam"]["warmup"]) == set(WARM_UPS)
    assert features_command.METHODS == features.METHODS
    assert (*DISTRIBUTIONS, "other") == NOISE_KINDS


def test_flags_of_a_method_go_with_its_name() -> None:
    words = "--env Hopper-noise90 --drop-fraction 0.3 --update-interval 77 -n 100000 -params method.name:set"
    assert read_plan(make_parser().parse_args(words.split())).hyperparameters["method"] == {
        "name": "set",
        "drop_fraction": 0.3,
        "update_interval": 77,
    }


def test_sections_for_environments_with_a_namespace(tmp_path: Path) -> None:
    gymnasium.register("myns/Thing-v0", "gymnasium.envs.classic_control:PendulumEnv", max_episode_steps=200)
    try:
        file = tmp_path / "mine.yml"
        file.write_text("myns/Thing: {gamma: 0.5}\n")
        args = make_parser().parse_args(f"--algo sac --env myns/Thing-v0 -n 100 -conf {file}".split())
        assert read_plan(args).hyperparameters["gamma"] == 0.5
    finally:
        del gymnasium.registry["myns/Thing-v0"]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("variant", [None, "paper"])
def test_every_recipe_builds_an_agent(algorithm: str, variant: str | None) -> None:
    words = ["--algo", algorithm, "--env", "InvertedPendulum-noise90", "-params", "buffer_size:100"]
    plan = settle(*words, *([] if variant is None else ["--variant", variant]))
    env = make_vec_env(plan.env, 1, seed=0)
    model = make_model(learner_of(algorithm), plan.hyperparameters, env, seed=0, device="cpu")
    layers = sparse_layers(model.policy)
    if algorithm in ("sac", "td3"):
        assert not layers
    else:
        method = make_method(in_gradient_steps(plan.hyperparameters))
        assert layers
        for layer in layers.values():
            method.check(layer.budget)
        if algorithm.startswith(("anf", "static")):
            assert [layer.density for layer in layers.values()] == pytest.approx([0.2] * len(layers), abs=1e-3)
        targets = {name.partition(".")[0] for name in layers if "_target" in name}
        assert targets == ({"critic_target"} if "sac" in algorithm else {"actor_target", "critic_target"})
    if variant == "paper" and algorithm not in ("ds-sac", "rlx2-sac", "rlx2-td3"):
        assert model.batch_size == 100
        optimizer: Any = model.actor.optimizer
        assert optimizer.param_groups[0]["weight_decay"] == 2e-4
        assert optimizer.param_groups[0]["lr"] == 1e-3
        assert model.learning_starts == 25_000
    env.close()


def test_anf_has_the_published_settings() -> None:
    recipe = load_recipe("anf-sac", "HalfCheetah", "paper")
    assert recipe["method"] == {"name": "set", "drop_fraction": 0.05, "update_interval": 1000}
    expected = {"sparsity": 0.8, "distribution": "input", "ent_coef": 0.2, "n_timesteps": 1_025_000}
    expected |= {"eval_freq": 5000, "eval_episodes": 10}
    assert recipe.items() >= expected.items()


def test_static_differs_from_anf_only_in_the_method() -> None:
    anf, static = load_recipe("anf-td3", "Ant"), load_recipe("static-td3", "Ant")
    assert static.pop("method") == {"name": "static"}
    del anf["method"]
    assert anf == static


@pytest.mark.parametrize(
    ("algorithm", "environment", "lambdas", "fraction"),
    [
        ("ds-td3", "HalfCheetah", [7, 64], 0.05),
        ("ds-td3", "Walker2d", [7, 64], 0.05),
        ("ds-td3", "Ant", [40, 64], 0.05),
        ("ds-td3", "Humanoid", [61, 64], 0.05),
        ("ds-sac", "HalfCheetah", [12, 80], 0.1),
        ("ds-sac", "Hopper", [7, 20], 0.1),
        ("ds-sac", "Ant", [30, 64], 0.1),
        ("ds-sac", "Humanoid", [61, 64], 0.1),
    ],
)
def test_ds_has_the_published_settings(algorithm: str, environment: str, lambdas: list[int], fraction: float) -> None:
    recipe = load_recipe(algorithm, environment, "paper")
    assert recipe["lambdas"] == lambdas
    assert recipe["method"] == {
        "name": "signed_set",
        "drop_fraction": fraction,
        "update_interval": 1000,
        "stop": 925_000,
    }
    assert recipe["n_timesteps"] == 1_000_000
    hard = (1.0, 1000) if algorithm == "ds-sac" else (None, None)
    assert (recipe.get("tau"), recipe.get("target_update_interval")) == hard


@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        ({}, 900_000),
        ({"train_freq": 4}, 225_000),
        ({"train_freq": [4, "step"], "gradient_steps": 2, "n_envs": 3}, 150_002),
        ({"train_freq": [1, "episode"], "gradient_steps": -1}, 900_000),
        ({"learning_starts": 2_000_000}, 0),
    ],
)
def test_times_of_a_method_may_be_fractions_of_the_run(settings: dict[str, Any], steps: int) -> None:
    run = {"n_timesteps": 1_000_000, "learning_starts": 100_000, "train_freq": 1, "gradient_steps": 1, "n_envs": 1}
    method = {"name": "gmp", "begin": 0.2, "end": 0.8, "update_interval": 500}
    expected = method | {"begin": round(0.2 * steps), "end": round(0.8 * steps)}
    assert in_gradient_steps(run | settings | {"method": method}) == expected
    all_of_it = in_gradient_steps(run | settings | {"method": method | {"end": 1.0}})
    assert all_of_it["end"] == steps
    assert in_gradient_steps(run | {"method": method | {"begin": 0, "end": 1}})["end"] == 1  # a gradient step
    whole = method | {"begin": 10, "end": 20}
    episodes = {"train_freq": [1, "episode"], "method": whole}
    assert in_gradient_steps(run | episodes) == whole
    with pytest.raises(InputError, match="number of gradient steps is not known"):
        in_gradient_steps(run | episodes | {"method": method})


def test_sections_apply_from_general_to_special(tmp_path: Path) -> None:
    file = tmp_path / "mine.yml"
    file.write_text("default: {gamma: 0.9, tau: 0.1}\nHopper: {gamma: 0.8}\nvariants: {fast: {tau: 0.2}}\n")
    recipe = load_recipe("anf-sac", "Hopper", "fast", file)
    assert (recipe["gamma"], recipe["tau"]) == (0.8, 0.2)
    assert recipe["learning_starts"] == 5000  # from sac.yml
    assert recipe["method"]["name"] == "set"  # from anf-sac.yml


def test_aliases_of_aliases_cannot_fill_the_memory() -> None:
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 10)]
    with pytest.raises(InputError, match="more than 10,000 values in it"):
        parse_yaml("\n".join(lines), "it")
    for itself in ("&a [*a]", "a: &a {b: [*a]}"):
        with pytest.raises(InputError, match="There is an error in it: a value in it contains itself"):
            parse_yaml(itself, "it")
    deep = "\n".join(["- &a0 []", *(f"- &a{n} [*a{n - 1}]" for n in range(1, 99))])
    with pytest.raises(InputError, match="nested more than 50 deep"):
        parse_yaml(deep, "it")


def test_numbers_read_as_people_write_them() -> None:
    assert parse_yaml("[1e-3, 1e6, !!float 3e-4, 1_000, 5, -2E+3]", "it") == [1e-3, 1e6, 3e-4, 1000, 5, -2000.0]
    assert check_recipe({"n_timesteps": 1e6}, {}) == {"n_timesteps": 1_000_000}


def test_assignments_nest() -> None:
    words = ["learning_rate:1e-3", "policy_kwargs.net_arch:[400,300]", "policy_kwargs.optimizer_kwargs.eps:1e-5"]
    expected = {"net_arch": [400, 300], "optimizer_kwargs": {"eps": 1e-5}}
    assert parse_assignments(words) == {"learning_rate": 1e-3, "policy_kwargs": expected}


def test_override_merges_mappings_but_not_named_ones() -> None:
    recipe = {"policy_kwargs": {"a": 1}, "method": {"name": "set", "drop_fraction": 0.1}}
    changed = override(recipe, {"policy_kwargs": {"b": 2}, "method": {"name": "static"}})
    assert changed == {"policy_kwargs": {"a": 1, "b": 2}, "method": {"name": "static"}}
    assert recipe["policy_kwargs"] == {"a": 1}


def test_yaml_runs_no_code() -> None:
    with pytest.raises(InputError, match="could not determine a constructor"):
        parse_yaml("!!python/object/apply:os.system ['echo']", "it")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("default: {gamma: 0.9", "line 1: .*expected"),
        ("default:\n  - gamma: [", "line 2"),
        ("default: {when: 2001-99-99}", "month must be"),
        ("- gamma", "must hold sections"),
        ("", "not nothing"),
        ("default: 5", "Section 'default' .* must hold keys, not 5"),
        ("variants: {fast: 5}", "Section 'fast'"),
        ("variants: 5", "Section 'variants'"),
        ("defualt: {gamma: 1}", "Did you mean 'default'"),
        ("HalfCheeta: {gamma: 1}", "'HalfCheetah'"),
        ("extends: td3\n", "goes on top of the recipe of --algo anf-sac: leave out 'extends'"),
        ("\0", "special characters are not allowed"),
    ],
)
def test_corrupt_file(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "mine.yml"
    file.write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        load_recipe("anf-sac", "HalfCheetah", file=file)
    assert "\n" not in str(caught.value)


def test_unreadable_file(tmp_path: Path) -> None:
    (tmp_path / "binary.yml").write_bytes(b"\xff\xfe\xfa")
    for name, message in (
        ("missing.yml", "missing.yml' cannot be read"),
        ("binary.yml", "binary.yml': it is not text"),
    ):
        with pytest.raises(InputError, match=message):
            load_recipe("sac", "Hopper", file=tmp_path / name)


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ({"learning_rat": 1e-3}, "Unknown recipe key 'learning_rat'. Did you mean 'learning_rate'"),
        ({"learning_rate": "lin_3e-4"}, "learning_rate must be a number above 0, not 'lin_3e-4'"),
        ({"learning_rate": 0}, "above 0"),
        ({"gamma": 1.5}, r"gamma must be a number in \[0, 1\], not 1.5"),
        ({"gamma": float("nan")}, "not nan"),
        ({"n_timesteps": 1.5}, "whole number of at least 1, not 1.5"),
        ({"n_timesteps": float("inf")}, "whole number"),
        ({"n_timesteps": True}, "not True"),
        ({"batch_size": None}, "not nothing"),
        ({"sparsity": 1}, r"sparsity must be a number in \[0, 1\), not 1"),
        ({"sparsity": {"actor": 2}}, "sparsity must be"),
        ({"sparsity": {"actr": 0.5}}, "'actor'"),
        ({"distribution": "unifrom"}, "'uniform'"),
        ({"replay": "redraw"}, "'redrawn'"),
        ({"policy": "CnnPolicy"}, "'MlpPolicy'"),
        ({"policy_kwargs": "dict(net_arch=[400, 300])"}, "policy_kwargs must be a mapping"),
        ({"use_sde": 1}, "use_sde must be true or false"),
        ({"ent_coef": "atuo"}, "ent_coef must be"),
        ({"ent_coef": "auto_0"}, "ent_coef must be"),
        ({"ent_coef": "auto_1e"}, "ent_coef must be"),
        ({"ent_coef": "auto_1e999"}, "ent_coef must be"),
        ({"train_freq": [1, "steps"]}, "'step'"),
        ({"method": {"name": "sett"}}, "'set'"),
        ({"method": {"drop_fraction": 0.1}}, "Unknown method name"),
        ({"method": {"name": "set", "drop_fraction": 1.1}}, "drop_fraction must be"),
        ({"method": {"name": "set", "interval": 1}}, "'update_interval'"),
        ({"method": {"name": "riggl"}}, "Unknown method name 'riggl'. Did you mean 'rigl'"),
        ({"method": {"name": "gmp", "begin": 5}}, "The method 'gmp' needs the setting 'end'"),
        ({"method": {"name": "gmp", "end": 0.8, "update_interval": 0}}, "update_interval must be a whole number of at"),
        ({"method": {"name": "ne", "end": 1.5}}, r"end must be a gradient step, or a fraction of the run up to 1.0"),
        ({"method": {"name": "ne", "end": 5, "prune_ratio": 1}}, r"prune_ratio must be a number in \[0, 1\), not 1"),
        ({"layers": "hidde"}, "'hidden'"),
        ({"lambdas": 7}, "lambdas must be a list of numbers, one for each of the first layers, not 7"),
        ({"lambdas": [7, -1]}, "each of lambdas must be a number above 0, not -1"),
        ({"initial_sparsity": 1}, "initial_sparsity must be"),
        ({"initialisation": "xavier"}, "Unknown initialisation 'xavier'"),
        ({"method": {"name": "static", "drop_fraction": 0.1}}, "The method 'static' has no settings"),
        ({"optimizer": "smet_adam"}, "Unknown optimizer name 'smet_adam'. Did you mean 'smet-adam'"),
        ({"optimizer": {"warmup_steps": 5}}, "Unknown optimizer name"),
        ({"optimizer": ["adam"]}, "optimizer must be a mapping"),
        ({"optimizer": {"name": "adam", "warmup_steps": 5}}, "The optimizer 'adam' has no settings"),
        ({"optimizer": {"name": "smet-adam", "warmup_step": 5}}, "'warmup_steps'"),
        (
            {"optimizer": {"name": "smet-adam", "density_exponent": -1}},
            r"density_exponent must be a number in \[0, 10\]",
        ),
        ({"optimizer": {"name": "smet-adam", "warmup": "step"}}, "Unknown warmup"),
    ],
)
def test_bad_value(recipe: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_recipe(recipe, learner_defaults("sac"))


def test_good_values_pass() -> None:
    recipe = {"ent_coef": "auto_0.1", "train_freq": [1, "episode"], "sparsity": {"actor": 0.9, "critic": 0}}
    assert check_recipe(recipe, learner_defaults("sac")) == recipe
    for word in ("auto_1", "auto_.5", "auto_1e-3", "auto_2.5e+1"):
        assert check_recipe({"ent_coef": word}, learner_defaults("sac")) == {"ent_coef": word}


def test_an_optimizer_is_a_word_or_has_settings() -> None:
    assert check_recipe({"optimizer": "smet-adam"}, {}) == {"optimizer": {"name": "smet-adam"}}
    given = {"name": "smet-adam", "warmup_steps": 1e2, "warmup": "update", "density_exponent": 0.5}
    assert check_recipe({"optimizer": given}, {}) == {"optimizer": {**given, "warmup_steps": 100}}


@pytest.mark.parametrize("algorithm", ["anf-sac", "td3"])
def test_the_recipe_chooses_the_optimizer(algorithm: str) -> None:
    words = ["--algo", algorithm, "--env", "InvertedPendulum-noise90", "--variant", "paper", "-params"]
    words += ["buffer_size:100", "optimizer:{name: smet-adam, density_exponent: 0.5}"]
    plan = settle(*words)
    env = make_vec_env(plan.env, 1, seed=0)
    model = make_model(learner_of(algorithm), plan.hyperparameters, env, seed=0, device="cpu")
    for network in (model.actor, model.critic):
        assert type(network.optimizer) is SMETAdam
        expected = {"lr": 1e-3, "weight_decay": 2e-4, "density_exponent": 0.5, "warmup_steps": 100}
        assert network.optimizer.param_groups[0].items() >= expected.items()
    env.close()


def test_two_optimizers_are_one_too_many() -> None:
    words = ["--algo", "sac", "--env", "Pendulum-v1", "-params", "buffer_size:100", "optimizer:smet-adam"]
    plan = settle(*words, "policy_kwargs.optimizer_class:AdamW")
    env = make_vec_env(plan.env, 1, seed=0)
    with pytest.raises(InputError, match="two optimizers, 'smet-adam' and 'AdamW'"):
        make_model("sac", plan.hyperparameters, env, seed=0, device="cpu")
    env.close()


def test_number_names_its_range() -> None:
    with pytest.raises(InputError, match=r"x must be a number in \(0, 2\), not 2"):
        Number(0, 2, above=True, below=True)("x", 2)


@pytest.mark.parametrize(
    ("screening", "message"),
    [
        (0.01, "screening must be a mapping"),
        ({"lvel": 0.01}, "Unknown setting of screening 'lvel'. Did you mean 'level'"),
        ({"level": 1}, r"level must be a number in \(0, 1\), not 1"),
    ],
)
def test_bad_screening(screening: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_recipe({"screening": screening}, learner_defaults("sac"))


def test_a_recipe_file_has_an_end() -> None:
    with pytest.raises(ValueError, match="is not a regular file"):
        load_recipe("sac", "Hopper", file=Path("/dev/zero"))
