"""How training ends: by a signal, NaN, an environment that raises, a full disk; and what bad input gets."""

import builtins
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import stable_baselines3
import yaml
from stable_baselines3.common.monitor import ResultsWriter
from train_cases import ENV, QUICK, ROOT, train

from sparse_rl.agents.sac import SAC
from sparse_rl.commands.main import main as sparse_rl
from sparse_rl.commands.train import _hint, main
from sparse_rl.training.callbacks import HeartbeatCallback
from sparse_rl.training.run_folder import RunFolder


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_it_with_everything_saved(tmp_path: Path, number: signal.Signals, code: int) -> None:
    command = [sys.executable, "-u", "train.py", *f"--env {ENV} -n 1000000 --eval-freq 150 {QUICK}".split(), "."]
    command[-1] = str(tmp_path)
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        seen = []
        for line in process.stdout:
            seen.append(line)
            if "return" in line:  # the first evaluation
                process.send_signal(number)
                break
        output, errors = process.communicate(timeout=60)
    assert process.returncode == code
    assert re.fullmatch(r"\nEnding after this step .+ A second signal .+\n", errors)
    assert f"Ended by {number.name}" in output
    folder = tmp_path / "anf-sac" / ENV / "1"
    names = {path.name for path in folder.iterdir()}
    assert names >= {"evaluations.npz", "best_model.zip", "connectivity.png", "connectivity.csv", "config.yml"}
    assert ".partial" not in names
    assert SAC.load(folder / f"{ENV}.zip", device="cpu").num_timesteps >= 150


class Broken(gym.Env[np.ndarray[Any, Any], np.ndarray[Any, Any]]):
    """An environment whose numbers stop being numbers."""

    def __init__(self, after: int = 0, what: str = "observation", error: str = "RuntimeError") -> None:
        self.observation_space = gym.spaces.Box(-1, 1, (3,), np.float32)
        self.action_space = gym.spaces.Box(-1, 1, (1,), np.float32)
        self.after, self.what, self.error, self.steps = after, what, error, 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray[Any, Any], dict[str, Any]]:
        return np.full(3, np.nan if self.after == 0 else 0, np.float32), {}

    def step(self, action: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], float, bool, bool, dict[str, Any]]:
        self.steps += 1
        if self.what == "error" and self.steps >= self.after:
            raise getattr(builtins, self.error)("the motor is hot")
        value = float("nan") if self.steps >= self.after else 0.0
        observation = np.full(3, value if self.what == "observation" else 0, np.float32)
        return observation, value if self.what == "reward" else 0.0, False, self.steps % 10 == 0, {}


class Odd(gym.Env[Any, Any]):
    """An environment that is not as Gymnasium wants it; it knows no ``render_mode`` either."""

    observation_space = gym.spaces.Box(-1, 1, (3,))

    def __init__(self, shape: int = 3, answers: int = 5, actions: str = "float32", least: float = -1) -> None:
        self.shape, self.answers = shape, answers
        self.action_space = gym.spaces.Box(least, 1, (1,), getattr(np, actions))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return np.zeros(self.shape, np.float32), {}

    def step(self, action: Any) -> Any:
        return (np.zeros(self.shape, np.float32), 0.0, False, True, {})[-self.answers :]


@pytest.fixture(scope="module")
def _odd() -> Iterator[None]:
    gym.register("Odd-v0", Odd, disable_env_checker=True)
    yield
    del gym.registry["Odd-v0"]


@pytest.mark.usefixtures("_odd")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("shape:4", "'Odd-v0' gives observations of shape (4,), and says that they have the shape (3,)."),
        ("actions:int64", "'Odd-v0' has actions of type int64: they must be floating-point numbers."),
        ("least:1", "has actions that leave nothing to choose"),
        ("answers:4", "has a step() that gives 4 values: expected observation, reward, terminated, truncated, info."),
    ],
)
def test_odd_environments(tmp_path: Path, capsys: pytest.CaptureFixture[str], words: str, message: str) -> None:
    assert train(f"--algo sac --env Odd-v0 --env-kwargs {words} -n 60 {QUICK}", tmp_path) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.rglob("config.yml"))


@pytest.mark.usefixtures("_odd")
def test_an_environment_without_a_time_limit_and_without_pictures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train("--algo static-a2c --env Odd-v0 --kernel scatter -n 20 --seed 0 --eval-episodes 1 -f", tmp_path) == 0
    assert "Note: Odd-v0 has no time limit" in capsys.readouterr().out
    run = str(tmp_path / "static-a2c" / "Odd-v0" / "1")
    assert sparse_rl(["features", run, "--episodes", "7", "--transitions", "300", "-o", str(tmp_path)]) == 0
    capsys.readouterr()
    with pytest.warns(UserWarning, match="render_mode='rgb_array' that is not in the possible render_modes"):
        assert sparse_rl(["record", run, "-o", str(tmp_path / "film.gif")]) == 2
    assert "'Odd-v0' cannot be drawn: its class must accept render_mode" in capsys.readouterr().err


@pytest.fixture(scope="module")
def _broken() -> Iterator[None]:
    gym.register("Broken-v0", Broken, disable_env_checker=True)  # it would warn, which is an error in tests
    yield
    del gym.registry["Broken-v0"]


@pytest.mark.usefixtures("_broken")
def test_nan_at_the_start_leaves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for env in ("Broken-v0", "Broken-v0-noise50"):
        assert train(f"--env {env} -n 100 {QUICK}", tmp_path / "runs") == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert "nan" in error.lower()
    assert not (tmp_path / "runs").exists()


@pytest.mark.usefixtures("_broken")
@pytest.mark.parametrize(
    ("env", "what"), [("Broken-v0", "observation"), ("Broken-v0", "reward"), ("Broken-v0-noise50", "observation")]
)
def test_nan_during_training_saves_what_there_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], env: str, what: str
) -> None:
    words = f"--algo sac --env {env} --env-kwargs after:35 what:{what} -n 100 --eval-freq -1 {QUICK}"
    assert train(words, tmp_path) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: Training ended at step 3")
    assert "nan" in error.lower()
    assert {path.name for path in (tmp_path / "sac" / env / "1").iterdir()} >= {f"{env}.zip", "connectivity.png"}


@pytest.mark.usefixtures("_broken")
@pytest.mark.parametrize("error", ["RuntimeError", "ConnectionRefusedError", "FileNotFoundError", "EOFError"])
def test_an_environment_that_raises_costs_nothing_that_was_learnt(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], error: str
) -> None:
    """Whatever it raises: neither has a process died, nor could a file not be written."""
    kwargs = f"--env-kwargs after:35 what:error error:{error}"
    assert train(f"--algo sac --env Broken-v0 {kwargs} -n 100 --eval-freq -1 {QUICK}", tmp_path) == 2
    output = capsys.readouterr()
    assert "Traceback" in output.err  # for whoever wrote the environment
    assert "error: Training ended at step 3" in output.err
    assert f"and is saved. {error}: the motor is hot (see above)" in output.err
    assert "To continue the run:    not possible, without a checkpoint" in output.out
    folder = tmp_path / "sac" / "Broken-v0" / "1"
    assert {path.name for path in folder.iterdir()} >= {"Broken-v0.zip", "connectivity.png"}
    assert not (folder / ".partial").exists()


DYING = """\
import os

import gymnasium as gym
import numpy as np


class Dying(gym.Env):
    observation_space, action_space = gym.spaces.Box(-1, 1, (3,)), gym.spaces.Box(-1, 1, (1,))
    steps = 0

    def reset(self, *, seed=None, options=None):
        return np.zeros(3, np.float32), {}

    def step(self, action):
        self.steps += 1
        if self.steps == 35:
            os._exit(1)
        return np.zeros(3, np.float32), 0.0, False, False, {}


gym.register("Dying-v0", Dying, disable_env_checker=True)
"""


def test_a_worker_process_that_dies_costs_nothing_that_was_learnt(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "dying_environment.py").write_text(DYING)
    monkeypatch.syspath_prepend(tmp_path)
    words = f"--algo sac --env dying_environment:Dying-v0 --vec-env subproc -n 100 --eval-freq -1 {QUICK}"
    assert train(words, tmp_path / "runs") == 2
    error = capsys.readouterr().err
    assert "error: Training ended at step 3" in error
    assert "The process of an environment died" in error
    assert list((tmp_path / "runs").glob("*/*/1/*.zip"))


@pytest.mark.usefixtures("_broken")
def test_a_log_of_episodes_that_cannot_be_written_is_no_fault_of_the_environment(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_row(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ResultsWriter, "write_row", write_row)
    assert train(f"--algo sac --env Broken-v0 --env-kwargs after:99 -n 60 --eval-freq -1 {QUICK}", tmp_path) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: No space left on device. The run in ")
    assert "ended there" in error


def test_a_run_that_cannot_begin_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_text(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(RunFolder, "write_text", write_text)
    assert train(f"--algo sac --env {ENV} -n 40 {QUICK}", tmp_path) == 2
    folder = tmp_path / "sac" / ENV / "1"
    assert capsys.readouterr().err == f"error: No space left on device. The run in {str(folder)!r} has not begun.\n"
    assert not folder.exists()


@pytest.mark.parametrize("is_buffered", [True, False])
def test_a_run_goes_on_when_nobody_reads_what_it_says(tmp_path: Path, is_buffered: bool) -> None:
    """Such as `| head` does, or a closed terminal: all is there in the end, and nothing is complained of."""
    words = f"--algo sac --env {ENV} -n 60 --eval-freq 20 --verbose 1 {QUICK} {tmp_path}"
    command = [sys.executable, *([] if is_buffered else ["-u"]), "train.py", *words.split()]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr is not None
        errors = process.stderr.read()
    assert (process.returncode, errors) == (0, "")
    folder = tmp_path / "sac" / ENV / "1"
    assert yaml.safe_load((folder / "summary.yml").read_text())["finished"] is True
    assert {path.name for path in folder.iterdir()} >= {f"{ENV}.zip", "best_model.zip", "evaluations.npz"}


@pytest.mark.parametrize("nohup", [False, True])
def test_a_terminal_that_is_closed_ends_a_run_cleanly_but_for_nohup(tmp_path: Path, nohup: bool) -> None:
    steps = 1000 if nohup else 4000  # to be taken, or never
    words = f"--algo sac --env {ENV} -n {steps} --eval-freq -1 {QUICK} {tmp_path} --num-threads 1"
    command = [sys.executable, "train.py", *words.split()]
    pid, terminal = pty.fork()
    if pid == 0:  # a process of its own, with a terminal that controls it
        os.chdir(ROOT)
        signal.signal(signal.SIGHUP, signal.SIG_IGN if nohup else signal.SIG_DFL)
        os.execv(sys.executable, command)
    folder = tmp_path / "sac" / ENV / "1"
    for _ in range(600):
        if (folder / "command.txt").exists():
            break
        time.sleep(0.1)
    time.sleep(1)
    os.close(terminal)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == (0 if nohup else 128 + signal.SIGHUP)
    assert yaml.safe_load((folder / "summary.yml").read_text())["finished"] is nohup
    if not nohup:
        assert list((folder / "checkpoints").glob("step_*.safetensors"))


def test_a_second_signal_saves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def learn(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt  # in the middle of an update

    monkeypatch.setattr(SAC, "learn", learn)
    assert train(f"--algo sac --env {ENV} -n 40 --eval-freq 20 {QUICK}", tmp_path) == 130
    folder = tmp_path / "sac" / ENV / "1"
    assert not [*folder.glob("*.zip"), *folder.glob("*.agent"), *folder.glob("summary.yml")]


def test_a_full_disk_leaves_complete_files_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def save(self: SAC, path: str | Path, *_: Any, **__: Any) -> None:
        Path(path).with_suffix(".zip").write_bytes(b"half a mod")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(SAC, "save", save)
    assert train(f"--algo sac --env {ENV} -n 40 --eval-freq 20 {QUICK}", tmp_path) == 2
    folder = tmp_path / "sac" / ENV / "1"
    error = capsys.readouterr().err
    assert "No space left on device" in error
    assert str(folder) in error
    assert not list(folder.glob("*.zip"))
    assert not (folder / ".partial").exists()


def test_a_signal_ends_an_evaluation_too(tmp_path: Path) -> None:
    command = [sys.executable, "-u", "train.py", "--env", ENV, *f"-n 400 --eval-freq 20 {QUICK}".split(), str(tmp_path)]
    command += ["--eval-episodes", "1000000"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        folder = tmp_path / "anf-sac" / ENV / "1"
        for _ in range(600):
            if (folder / "command.txt").exists():
                break
            time.sleep(0.1)
        time.sleep(3)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 130
    assert (folder / f"{ENV}.zip").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--algo anf-sca", "Unknown algorithm 'anf-sca'. Did you mean 'anf-sac'"),
        ("--algo ANF-SAC", "Unknown algorithm 'ANF-SAC'. Did you mean 'anf-sac'?"),
        ("--algo rlx2-ppo", "Unknown algorithm 'rlx2-ppo': rlx2 works only as rlx2-sac or rlx2-td3."),
        ("--env HalfCheeta-noise98", "Unknown environment 'HalfCheeta'. Did you mean 'HalfCheetah'"),
        ("--env HalfCheetah98", "Unknown environment 'HalfCheetah98'. Did you mean 'HalfCheetah-noise98'?"),
        ("--env Hopper-Noise90", "Unknown environment 'Hopper-Noise90'. Did you mean 'Hopper-noise90'?"),
        ("--env HalfCheetah-noise100", "noise is a percentage in [0, 100)"),
        ("--env Hopper-noise99.9999999", "'Hopper-noise99.9999999': numbers have at most four decimals"),
        ("--env HalfCheetah-nose98", "'HalfCheetah"),
        ("--env nowhere:Hopper-noise90", "No module named 'nowhere'"),
        ("--env CartPole-v1", "actions of kind Discrete; sac needs Box actions. Learners for these actions: a2c, dqn"),
        ("--env FrozenLake-v1", "observations of kind Discrete"),
        ("--env Hopper-v5 --env-kwargs legs:2", "cannot be made"),
        ("--env Hopper-v5 --env-kwargs legs", "Expected key:value"),
        ("--variant papr", "Unknown anf-sac variant 'papr'. Did you mean 'paper'?"),
        ("--sparsity 1", "sparsity must be a number in [0, 1), not 1.0"),
        ("--sparsity -0.1", "sparsity must be"),
        ("--sparsity 0.9999999", "parsity"),
        ("--drop-fraction 1.5", "drop_fraction must be a number in [0, 1]"),
        ("--update-interval 0", "update_interval must be a whole number of at least 1"),
        ("--algo sac --sparsity 0.5", "sac is dense"),
        ("--algo static-td3 --drop-fraction 0.5", "has no settings"),
        ("--layers all", "`layers` is 'all': choose the `distribution`"),
        ("--algo ds-sac --sparsity 0.5", "leave out `sparsity`"),
        ("--algo gmp-sac -params initial_sparsity:0.95", "must not be less than `initial_sparsity`"),
        ("--algo ne-td3 --sparsity 0.9", "must not be more than `initial_sparsity`"),
        ("--algo gmp-sac -params method.end:0.1", "would end before it starts: `end` is"),
        ("--algo rigl-sac -n 500", "would end before they start: `stop` is gradient step"),
        ("-params initial_sparsity:0.5", "SET keeps the number of active weights"),
        ("--env Hopper-v5 --replay redrawn", "no noise features"),
        ("--env Hopper-noise80-other --replay redrawn", "which cannot be redrawn: use `--replay observed`"),
        ("--env Hopper-noise80-othr", "Unknown part 'othr'. Did you mean 'other'?"),
        ("--kernel fast", "Unknown kernel"),
        ("--device gpu", "There is no device 'gpu'"),
        ("--seed -2", "seed must be a whole number in [0, "),
        ("--num-threads 99999999999", "num_threads must be a whole number of at most 4096"),
        ("-params batch_size:1e18", "batch_size must be a whole number in [1, 1e+08]"),
        ("--n-envs 0", "n_envs must be"),
        ("-n 0", "n_timesteps must be"),
        ("-params learning_rat:1", "Unknown recipe key 'learning_rat'. Did you mean 'learning_rate'"),
        ("-params policy_kwargs.net_arhc:[1]", "Unknown key of policy_kwargs 'net_arhc'. Did you mean 'net_arch'?"),
        ("-params policy_kwargs.activation_fn:Tan", "'Tanh'"),
        ("-params policy_kwargs.optimizer_kwargs.weigth_decay:1", "weigth_decay"),
        ("-params policy_kwargs.sparsity:0.5", "belongs at the top level of a recipe"),
        ("-params optimize_memory_usage:true", "works with `--replay observed` only"),
        ("-params method.decay:cosine", "cosine decay needs"),
        ("-params gamma:{", "There is an error in 'gamma:{'"),
        ("-conf missing.yml", "The recipe file 'missing.yml' cannot be read"),
    ],
)
def test_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str], words: str, message: str) -> None:
    env = [] if "--env " in words else ["--env", ENV]
    assert main([*words.split(), *env, "-f", str(tmp_path / "runs")]) == 2
    output = capsys.readouterr()
    assert output.err.startswith("error: ")
    assert message in output.err
    assert output.err.count("\n") == 1
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("option", ["-f", "-tb"])
def test_a_folder_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str) -> None:
    (tmp_path / "file").write_text("not a folder")
    folders = ["-f", str(tmp_path / "runs"), option, str(tmp_path / "file")]
    assert main(["--env", ENV, "-n", "10", *folders]) == 2
    assert capsys.readouterr().err.startswith("error: ")
    assert not list(tmp_path.glob("runs/*/*/*"))


@pytest.mark.parametrize("words", ["-n many", "-n 1.5", "-n nan", "--vec-env thread", "--alg sac", "--seed"])
def test_words_that_cannot_be_parsed(capsys: pytest.CaptureFixture[str], words: str) -> None:
    with pytest.raises(SystemExit) as caught:
        main(words.split())
    assert caught.value.code == 2
    assert "error: " in capsys.readouterr().err


def test_help_and_typos_answer_without_pytorch() -> None:
    code = (
        "import sys\nfrom sparse_rl.commands.train import main\n"
        "from sparse_rl.commands.train_arguments import make_parser\nmake_parser().format_help()\n"
        "assert main(['--algo', 'x']) == main(['--env', 'x']) == main(['--variant', 'x']) == 2\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)


def test_without_a_progress_bar_there_is_a_line_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    model = stable_baselines3.PPO("MlpPolicy", "CartPole-v1", n_steps=32, batch_size=32, n_epochs=1, seed=0)
    model.learn(64, HeartbeatCallback(64, first=0.0))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 63  # the first step begins the count
    assert re.fullmatch(r"step \s+64 of 64: [\d.]+ steps/s", lines[-1])
    model.learn(64, HeartbeatCallback(64, first=100.0))
    assert capsys.readouterr().out == ""


def test_the_speed_of_a_run_that_goes_on_does_not_count_the_steps_before(capsys: pytest.CaptureFixture[str]) -> None:
    model = stable_baselines3.PPO("MlpPolicy", "CartPole-v1", n_steps=32, batch_size=32, n_epochs=1, seed=0)
    heartbeat = HeartbeatCallback(2_000_000, first=0.0)
    heartbeat.init_callback(model)
    for step in (1_000_000, 1_000_001):
        model.num_timesteps = step
        heartbeat.on_step()
        time.sleep(0.01)
    (line,) = capsys.readouterr().out.splitlines()
    assert float(line.split()[-2]) <= 100


def test_whoever_shares_the_cores_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    monkeypatch.setattr("os.getloadavg", lambda: (3.0, 0.0, 0.0))
    assert _hint(-1) == "Hint: other programs are computing here (load 3.0, 4 cores): --num-threads 1 may be faster."
    assert _hint(2) is None
    monkeypatch.setattr("os.getloadavg", lambda: (0.5, 9.0, 9.0))
    assert _hint(-1) is None
