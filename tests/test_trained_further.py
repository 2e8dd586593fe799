"""A trained agent, trained further: its networks, in a run of their own, by a recipe that says everything else."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
import yaml
from _experiment.grid import read_grid
from comparing import assert_same_run, resume, run, stop_at
from plan_cases import settle
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecNormalize

from sparse_rl.agents import load_agent, save_agent
from sparse_rl.agents.description import Description
from sparse_rl.commands.train import main
from sparse_rl.commands.train_arguments import public_command
from sparse_rl.inputs import InputError
from sparse_rl.nn import SMETAdam, sparse_layers
from sparse_rl.plots.folders import find_runs
from sparse_rl.sharing.bundle import _without_private, collect
from sparse_rl.sharing.card import model_card
from sparse_rl.training import make_agent
from sparse_rl.training.finding import find_agent
from sparse_rl.tuning.study import subject_of

ENV = "Pendulum-v1-noise80"
SMALL = "buffer_size:200 learning_starts:30 batch_size:16"
SHORT = f"--env {ENV} --seed 3 -n 60 --eval-freq -1 -params {SMALL}"
FIRST = f"{SHORT} policy_kwargs.net_arch:[16,24]"


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of anf-sac that has ended."""
    return run(f"--algo anf-sac --update-interval 10 {FIRST}", tmp_path_factory.mktemp("before"))


def agent_of(run: Path) -> Path:
    return run / f"{ENV}.agent"


def optimizers(model: BaseAlgorithm) -> list[dict[str, Any]]:
    """Give the settings of all optimizers, of which none has done anything yet."""
    found = [*model._get_torch_save_params()[0]]
    result = []
    for name in (each for each in found if each.endswith("optimizer")):
        optimizer: Any = model
        for part in name.split("."):
            optimizer = getattr(optimizer, part)
        assert not optimizer.state
        (group,) = optimizer.param_groups
        result.append({"class": type(optimizer), **{key: value for key, value in group.items() if key != "params"}})
    assert result
    return result


# What the recipe says


@pytest.mark.parametrize(
    ("algo", "env", "others"),
    [
        ("anf-sac", ENV, {"learning_rate": 1e-2, "tau": 0.1, "target_entropy": -3.0}),
        ("rigl-td3", ENV, {"learning_rate": 1e-2, "policy_delay": 3, "noise_std": 0.5}),
        ("sac", ENV, {"optimizer": "smet-adam", "train_freq": 4}),
        ("static-tqc", ENV, {"optimizer": "smet-adam", "gamma": 0.5}),
        ("set-ppo", "CartPole-v1", {"learning_rate": 1e-2, "target_kl": 0.1, "n_steps": 8, "batch_size": 8}),
        ("a2c", "CartPole-v1", {"use_rms_prop": False, "learning_rate": 1e-2}),
        ("static-a2c", "CartPole-v1", {"optimizer": "adam", "gae_lambda": 0.5}),
        ("anf-dqn", "CartPole-v1", {"learning_rate": 1e-2, "exploration_fraction": 0.5, "target_update_interval": 7}),
    ],
)
def test_all_but_the_networks_is_as_with_new_ones(tmp_path: Path, algo: str, env: str, others: dict[str, Any]) -> None:
    small = {"buffer_size": 50} if "tau" in settle("--algo", algo, "--env", env).hyperparameters else {}
    former, _ = make_agent(algo, env, seed=1, **small, **others)
    former.num_timesteps = 7
    save_agent(former, tmp_path)
    new, _ = make_agent(algo, env, seed=0, **small)
    further, callbacks = make_agent(algo, env, seed=0, trained_agent=tmp_path, **small)
    assert Description.of(further) == Description.of(new) != Description.of(former)
    assert optimizers(further) == optimizers(new) != optimizers(former)
    assert further.num_timesteps == further._n_updates == 0
    if isinstance(new, OffPolicyAlgorithm):
        assert isinstance(further, OffPolicyAlgorithm)
        assert type(further.replay_buffer) is type(new.replay_buffer)
        assert further.replay_buffer is not None
        assert further.replay_buffer.size() == 0
        assert str(further.action_noise) == str(new.action_noise)
    mine, its = further.policy.state_dict(), former.policy.state_dict()
    assert mine.keys() == its.keys()
    assert all(th.equal(mine[name], its[name]) for name in mine)
    assert len(callbacks) == (algo not in ("sac", "a2c"))


@pytest.mark.parametrize(
    ("was", "recipe", "begins"),
    [
        ("auto_0.5", "auto", 0.5),  # what was learnt
        ("auto_0.5", "auto_0.2", 0.2),
        ("auto_0.5", 0.1, 0.1),
        (0.3, "auto", 1.0),
        (0.3, 0.1, 0.1),
    ],
)
def test_an_entropy_coefficient_goes_on_if_it_is_learnt(tmp_path: Path, was: Any, recipe: Any, begins: float) -> None:
    former, _ = make_agent("anf-sac", ENV, seed=0, buffer_size=10, ent_coef=was)
    save_agent(former, tmp_path)
    model: Any = make_agent("anf-sac", ENV, seed=0, buffer_size=10, ent_coef=recipe, trained_agent=tmp_path).model
    used = model.ent_coef_tensor if isinstance(recipe, float) else model.log_ent_coef.detach().exp()
    assert used.item() == pytest.approx(begins)


@pytest.mark.parametrize("variant", ["paper", None])
def test_the_optimizer_is_the_recipes(tmp_path: Path, variant: str | None) -> None:
    other = None if variant else "paper"
    nets = {"policy_kwargs": {"net_arch": [16, 16]}, "buffer_size": 10}
    save_agent(make_agent("anf-td3", ENV, seed=0, variant=other, **nets).model, tmp_path)
    model, _ = make_agent("anf-td3", ENV, seed=0, variant=variant, trained_agent=tmp_path, buffer_size=10)
    assert {group["weight_decay"] for group in optimizers(model)} == {2e-4 if variant else 0.0}
    kwargs = {"optimizer_kwargs": {"weight_decay": 0.5}}
    model, _ = make_agent("anf-td3", ENV, trained_agent=tmp_path, policy_kwargs=kwargs, buffer_size=10)
    assert {group["weight_decay"] for group in optimizers(model)} == {0.5}
    model, _ = make_agent("anf-td3", ENV, trained_agent=tmp_path, optimizer="smet-adam", buffer_size=10)
    assert {group["class"] for group in optimizers(model)} == {SMETAdam}


# Runs


def test_a_run_from_it(before: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run(f"--algo rigl-sac --update-interval 10 {SHORT} -i {before}", tmp_path)
    assert f"begins with the networks of '{before}', after 60 steps" in capsys.readouterr().out
    config = yaml.safe_load((folder / "config.yml").read_text())
    assert (config["trained_agent"], config["trained_agent_steps"]) == (str(before), 60)
    assert config["hyperparameters"]["sparsity"] == 0.8  # not RigL's
    assert config["hyperparameters"]["policy_kwargs"] == {"net_arch": [16, 24]}
    assert config["hyperparameters"]["method"]["name"] == "rigl"
    first, second = (sparse_layers(load_agent(agent_of(each)).policy) for each in (before, folder))
    assert {name: layer.values.shape for name, layer in first.items()} == {
        name: layer.values.shape for name, layer in second.items()
    }
    assert not any(th.equal(layer.values, second[name].values) for name, layer in first.items())


def test_it_can_be_stopped_and_continued_to_the_bit_also_without_the_agent(before: Path, tmp_path: Path) -> None:
    agent = agent_of(before)
    words = f"--algo anf-sac --update-interval 10 {SHORT} --eval-freq 45 --eval-episodes 1 -i {agent}"
    whole, parts = run(words, tmp_path / "whole"), stop_at(40, words, tmp_path / "parts")
    agent.rename(before / "moved.agent")
    try:
        assert resume(parts) == 0
    finally:
        (before / "moved.agent").rename(agent)
    assert_same_run(whole, parts)


def test_what_has_no_checkpoint_yet_begins_with_it_again(
    before: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    agent, elsewhere = tmp_path / "agent", tmp_path / "elsewhere"
    shutil.copytree(agent_of(before), agent)
    folder = stop_at(5, f"--algo anf-sac {SHORT} -i {agent}", tmp_path / "runs")
    for file in [*(folder / "checkpoints").glob("step_*"), *folder.glob("*.zip"), *folder.glob("*.agent/*")]:
        file.unlink()
    agent.rename(elsewhere)
    assert resume(folder) == 2
    assert f"There is no run or agent in '{agent}'" in capsys.readouterr().err
    model = load_agent(elsewhere)
    model.num_timesteps += 1
    save_agent(model, agent)
    assert resume(folder) == 2
    assert "had learnt for 60 steps when this run was begun, and for 61 now" in capsys.readouterr().err
    shutil.rmtree(agent)
    elsewhere.rename(agent)
    assert resume(folder) == 0
    assert "begins with the networks of" in capsys.readouterr().out


def test_the_path_holds_wherever_one_stands(before: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(before.parent)
    assert settle("--env", ENV, "-i", before.name).trained_agent == str(before)


def test_runs_from_it_are_told_from_those_with_new_networks(before: Path, tmp_path: Path) -> None:
    run(f"--algo static-sac {SHORT} -n 4 -i {before}", tmp_path)
    (found,), _ = find_runs([tmp_path])
    assert found.hyperparameters
    assert found.hyperparameters["trained_agent_steps"] == 60
    (found,), _ = find_runs([before])
    assert found.hyperparameters
    assert "trained_agent_steps" not in found.hyperparameters


def test_grids_tell_them_apart(before: Path, tmp_path: Path) -> None:
    file = tmp_path / "grid.yml"
    best = shutil.copytree(agent_of(before), tmp_path / "best")
    file.write_text(
        f"options: {{env: {ENV}, n-timesteps: 3000, algo: anf-sac, seed: 0, num-threads: 1}}\n"
        f"grid: [{{}}, {{trained-agent: ['{before}', '{best}']}}]\n"
    )
    cells = read_grid(file, threads=1)
    assert [cell.plan.trained_agent for cell in cells] == [None, str(before), str(best)]


def test_the_card_says_what_came_before(before: Path, tmp_path: Path) -> None:
    folder = run(f"--algo static-sac {SHORT} -n 4 -i {before}", tmp_path)
    card = model_card(collect(find_agent(str(folder)), public_command, episodes=0), "me/mine")
    assert "| environment steps | 4, after the 60 of the agent whose networks it began with |" in card
    assert "-i 1" in card
    assert "This takes the agent that it began with." in card
    assert str(before.parent) not in card


def test_studies_are_about_new_networks() -> None:
    assert not {"trained_agent", "trained_agent_steps"} & subject_of(settle("--env", ENV), {}).keys()


# What does not fit


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--algo sac", "has sparse layers: give --algo static-sac"),
        ("--algo anf-td3", "was trained by sac, so td3 cannot train it further: give an --algo with that learner"),
        ("--algo anf-sac --sparsity 0.9", "'sparsity' is that of the agent, which has 0.8, so it cannot be 0.9"),
        ("--algo anf-sac -params policy_kwargs.net_arch:[8]", "'policy_kwargs.net_arch' is that of the agent, which"),
        ("--algo anf-sac --layers hidden", "'layers' is that of the agent, which has none"),
        ("--algo screened-sac -params screening.level:0.1", "are wired already, and not screened"),
        ("--algo anf-sac -params normalize:true", "'normalize' is that of the agent, which has none"),
        ("--algo anf-sac -params use_sde:true", "'use_sde' is that of the agent, which has none"),
        ("--algo anf-sac --env Pendulum-v1-noise90", "has observations of Box("),
        ("--algo gmp-sac --update-interval 2", "there is nothing to do for a method that changes their number"),
        ("--algo anf-sac -params policy_kwargs:3", "policy_kwargs"),
    ],
)
def test_what_does_not_fit_is_refused(
    before: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: str, message: str
) -> None:
    assert main([*SHORT.split(), *words.split(), "-i", str(before), "-f", str(tmp_path / "runs")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("where", ["nowhere", "anf-sac/Reacher-noise9", "."])
def test_where_there_is_no_agent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], where: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*SHORT.split(), "-i", where]) == 2
    assert "error: " in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_agents_of_the_zoo_only_act() -> None:
    with pytest.raises(InputError, match="was saved to act only, without critics: it cannot be trained further"):
        make_agent("anf-sac", "InvertedPendulum-noise90", trained_agent="anf-sac/InvertedPendulum-noise90")


def test_dense_networks_have_nothing_to_rewire(tmp_path: Path) -> None:
    save_agent(make_agent("sac", ENV, seed=0, buffer_size=10).model, tmp_path)
    with pytest.raises(InputError, match="has no sparse layers, so there is nothing to rewire: give --algo sac"):
        make_agent("anf-sac", ENV, trained_agent=tmp_path, buffer_size=10)


def test_what_agrees_with_the_agent_may_be_said(before: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "mine.yml"
    recipe.write_text("default: {policy_kwargs: {net_arch: [16, 24]}, sparsity: 0.8, kernel: scatter}")
    plan = settle("--env", ENV, "--sparsity", "0.8", "-conf", str(recipe), "-i", str(before))
    assert plan.hyperparameters["policy_kwargs"] == {"net_arch": [16, 24]}
    assert plan.hyperparameters["kernel"] == "scatter"  # how layers are computed is free


def test_the_recipes_own_value_may_be_asked_for_by_name_only_if_the_agent_has_it(tmp_path: Path) -> None:
    save_agent(make_agent("anf-sac", ENV, seed=0, buffer_size=10, sparsity=0.5).model, tmp_path)
    assert settle("--env", ENV, "-i", str(tmp_path)).hyperparameters["sparsity"] == 0.5
    with pytest.raises(InputError, match=r"which has 0\.5, so it cannot be 0\.8"):
        settle("--env", ENV, "-i", str(tmp_path), "--sparsity", "0.8")


# What an agent brings along


def test_screened_inputs_stay_as_they_were_chosen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run(f"--algo screened-sac {FIRST} learning_starts:60 -n 90", tmp_path / "a")
    summary = yaml.safe_load((folder / "summary.yml").read_text())
    layers = sparse_layers(load_agent(agent_of(folder)).policy).values()
    read = set((next(iter(layers)).topology.positions % 15).tolist())
    assert 0 < len(read) <= summary["features_chosen"] < 15
    again = run(f"--algo screened-sac {SHORT} -i {folder}", tmp_path / "b")
    assert "Note: nothing is screened" in capsys.readouterr().out
    after = sparse_layers(load_agent(agent_of(again)).policy).values()
    assert all(th.equal(a.topology.positions, b.topology.positions) for a, b in zip(layers, after, strict=True))
    assert "screening" not in yaml.safe_load((again / "config.yml").read_text())["hyperparameters"]
    assert "features_chosen" not in yaml.safe_load((again / "summary.yml").read_text())


@pytest.mark.parametrize("method", ["static", "anf", "rigl"])
def test_however_far_an_agent_has_been_pruned_others_keep_its_weights(tmp_path: Path, method: str) -> None:
    nets = {"policy_kwargs": {"net_arch": [16, 16]}, "buffer_size": 10}
    former, _ = make_agent("gmp-sac", ENV, seed=0, **nets)
    save_agent(former, tmp_path)  # not pruned at all yet
    again, _ = make_agent(f"{method}-sac", ENV, seed=0, buffer_size=10, trained_agent=tmp_path)
    for name, layer in sparse_layers(former.policy).items():
        assert sparse_layers(again.policy)[name].values.numel() == layer.values.numel()
    further, _ = make_agent("gmp-sac", ENV, seed=0, buffer_size=10, trained_agent=tmp_path)
    budgets = {name: layer.budget for name, layer in sparse_layers(former.policy).items()}
    assert {name: layer.budget for name, layer in sparse_layers(further.policy).items()} == budgets
    assert any(budget.start != budget.end for budget in budgets.values())


def test_normalized_observations_stay_normalized(tmp_path: Path) -> None:
    folder = run(f"--algo anf-sac {FIRST} normalize.clip_obs:3", tmp_path)
    model, _ = make_agent("anf-sac", ENV, trained_agent=folder, buffer_size=10, gamma=0.9)
    env = model.get_vec_normalize_env()
    assert isinstance(env, VecNormalize)
    assert (env.clip_obs, env.gamma) == (3, 0.9)
    assert isinstance(env.obs_rms, RunningMeanStd)
    assert env.obs_rms.count > 60
    assert not np.allclose(env.obs_rms.mean, 0)
    make_agent("anf-sac", ENV, trained_agent=folder, buffer_size=10, normalize=True)
    for other in (False, {"clip_obs": 10}):
        with pytest.raises(InputError, match=r"'normalize.* is that of the agent"):
            make_agent("anf-sac", ENV, trained_agent=folder, buffer_size=10, normalize=other)


def test_state_dependent_exploration_goes_on(tmp_path: Path) -> None:
    save_agent(make_agent("anf-sac", ENV, seed=0, buffer_size=10, use_sde=True).model, tmp_path)
    model, _ = make_agent("anf-sac", ENV, trained_agent=tmp_path, buffer_size=10)
    assert model.use_sde


def test_another_order_of_the_features_is_said(tmp_path: Path) -> None:
    shifting = f"{ENV}-permute1000"
    save_agent(make_agent("anf-sac", shifting, buffer_size=10).model, tmp_path, phase=2)
    with pytest.warns(UserWarning, match="in the order of phase 2, but training does not begin in that phase"):
        make_agent("anf-sac", shifting, buffer_size=10, trained_agent=tmp_path)


# Where it is spoken of


def test_a_finished_run_says_how_its_agent_can_be_trained_further(
    before: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert resume(before) == 2
    assert f"--trained-agent {before}" in capsys.readouterr().err


def test_where_the_agent_lay_is_not_shared() -> None:
    config = _without_private({"algo": "sac", "trained_agent": "/home/me/mine.agent"}, public_command)
    assert config["trained_agent"] == "mine.agent"
    assert public_command("python train.py -i /home/me/mine.agent") == "python train.py -i mine.agent"
    assert public_command("python train.py -i .") == f"python train.py -i {Path.cwd().name}"
