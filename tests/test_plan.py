"""From the words of a command line to a plan: what is changed, filled in and noted on the way."""

from pathlib import Path

import pytest
import yaml
from plan_cases import settle

from sparse_rl.inputs import InputError


def test_learning_starts_adapts_to_short_runs(tmp_path: Path) -> None:
    short = settle("--env", "HalfCheetah-noise98", "-n", "3000")
    assert short.hyperparameters["learning_starts"] == 300
    assert any("learning_starts reduced from 5000 to 300" in note for note in short.notes)
    long = settle("--env", "HalfCheetah-noise98", "-n", "6001")
    assert (long.hyperparameters["learning_starts"], long.notes) == (5000, ())


def test_a_screened_agent_keeps_half_of_a_short_run_for_the_tests() -> None:
    short = settle("--algo", "screened-sac", "--env", "HalfCheetah-noise98", "-n", "3000")
    assert short.hyperparameters["learning_starts"] == 1500
    assert ["may miss features" in note for note in short.notes] == [True]
    for steps, warm_up in (("5001", 2500), ("9999", 4999), ("10000", 5000)):  # no jump, where it ends
        plan = settle("--algo", "screened-sac", "--env", "HalfCheetah-noise98", "-n", steps)
        assert plan.hyperparameters["learning_starts"] == warm_up
    assert settle("--algo", "screened-sac", "--env", "Pendulum-v1-noise90").hyperparameters["learning_starts"] == 5000
    paper = settle("--algo", "screened-sac", "--env", "HalfCheetah-noise98", "--variant", "paper")
    assert paper.hyperparameters["learning_starts"] == 25_000


def test_a_run_that_ends_before_its_first_topology_update_says_so() -> None:
    words = ("--algo", "set-ppo", "--env", "CartPole-v1", "-n")
    (note,) = settle(*words, "2500").notes
    assert note.startswith(
        "no topology update will come: the first falls due at gradient step 1000, and the run can make those up to "
        "step 180 only."
    )
    assert not settle(*words, "2500", "--update-interval", "50").notes
    assert not settle("--algo", "static-ppo", "--env", "CartPole-v1", "-n", "2500").notes


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        # As many gradient steps as an interval: the update would come after the run, and one step more suffices.
        ("anf-sac -n 1100 -params learning_starts:100", "no topology update"),
        ("anf-sac -n 1101 -params learning_starts:100", None),
        # Growth by gradient waits one rollout for it, or as many as the actor makes it wait.
        ("rigl-sac -n 1101 -params learning_starts:100 method.stop:1000", "no topology update"),
        ("rigl-sac -n 1102 -params learning_starts:100 method.stop:1000", None),
        ("rigl-td3 -n 1102 -params learning_starts:100 method.stop:1000", "no topology update"),
        ("rigl-td3 -n 1103 -params learning_starts:100 method.stop:1000", None),
        # Pruning updates at its end too, wherever the interval falls, if a rollout begins thereafter.
        ("gmp-sac -n 900", None),
        ("gmp-ppo -n 8192", "no topology update"),
        ("gmp-ppo -n 20000 --update-interval 500", None),
        ("gmp-sac -n 50000 -params method.begin:60000 method.end:70000", "no topology update"),
        ("gmp-sac -n 50000 -params method.end:70000", "will not get to their final sparsity"),
        # As many gradient steps as the episodes have: nobody knows.
        ("set-sac -n 1000 -params train_freq:[1,episode]", None),
        # A method of the user's own that has no interval.
        ("static-sac -n 300 -params learning_starts:100", None),
    ],
)
def test_notes_say_what_of_a_method_the_run_is_too_short_for(words: str, expected: str | None) -> None:
    algo, *others = words.split()
    notes = [note for note in settle("--algo", algo, "--env", "Pendulum-v1", *others).notes if "reduced" not in note]
    assert [expected in note for note in notes] == [True] if expected is not None else not notes


def test_learning_starts_stays_as_the_user_set_it(tmp_path: Path) -> None:
    file = tmp_path / "mine.yml"
    file.write_text("default: {learning_starts: 4000}\nHalfCheetah: {learning_starts: 4000}")
    for words in (["-params", "learning_starts:4000"], ["--conf-file", str(file)]):
        plan = settle("-n", "3000", *words)
        assert plan.hyperparameters["learning_starts"] == 4000
        assert not any("reduced" in note for note in plan.notes)


def test_episodes_are_counted_in_one_environment_only() -> None:
    words = ("-n", "3000", "-params", "train_freq:[1,episode]")
    assert settle("--algo", "sac", *words).hyperparameters["train_freq"] == [1, "episode"]
    with pytest.raises(InputError, match="wants one environment, not 2: give --n-envs 1"):
        settle("--algo", "sac", *words, "--n-envs", "2")


def test_protocol_follows_the_environment() -> None:
    assert settle("--env", "Hopper-noise90").protocol == "redrawn noise"
    assert settle("--env", "Hopper-noise90", "--replay", "observed").protocol == "observed noise"
    ordinary = settle("--env", "Hopper-v5")
    assert (ordinary.hyperparameters["replay"], ordinary.protocol) == ("observed", "no noise")
    with pytest.raises(InputError, match="no noise features"):
        settle("--env", "Hopper-v5", "--replay", "redrawn")


def test_flags_change_the_recipe() -> None:
    words = "--sparsity .9 --drop-fraction .1 --update-interval 50 --kernel scatter --eval-freq 7 --n-envs 2"
    hyperparameters = settle(*words.split()).hyperparameters
    assert hyperparameters["method"] == {"name": "set", "drop_fraction": 0.1, "update_interval": 50}
    expected = {"sparsity": 0.9, "kernel": "scatter", "eval_freq": 7, "n_envs": 2}
    assert hyperparameters.items() >= expected.items()


def test_dense_agents_take_no_sparse_flags() -> None:
    for words in (["--sparsity", "0.5"], ["--drop-fraction", "0.5"], ["--kernel", "numba"]):
        with pytest.raises(InputError, match="td3 is dense"):
            settle("--algo", "td3", *words)


def test_a_plan_is_plain_data() -> None:
    plan = settle("--algo", "anf-td3", "--seed", "3")
    assert yaml.safe_load(yaml.safe_dump(dict(plan.hyperparameters))) == plan.hyperparameters


def test_random_seeds_differ() -> None:
    assert settle("--seed", "5").seed == 5
    assert settle().seed != settle().seed
