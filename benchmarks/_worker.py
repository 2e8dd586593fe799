"""The process of one agent: reads commands from its standard input, as lines of JSON, and answers each with a line."""

import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

WARM_UP = 30


class Worker:
    """
    An agent with its replay filled, ready to be timed. The arguments are those of ``_children.Agent``.

    Every agent meets the same environment and has Stable-Baselines3's hyperparameters, [256, 256] units, and batches of
    256. Evaluations, logs and checkpoints are off.
    """

    def __init__(
        self,
        kind: str,
        learner: str,
        env: str,
        replay: str,
        sparsity: float,
        distribution: str,
        fill: int,
        buffer_size: int,
        recipe: str = "",
        name: str = "",
    ) -> None:
        from stable_baselines3.common.logger import Logger

        from sparse_rl.training.vec_envs import make_vec_env

        self.env = make_vec_env(env, n_envs=1, seed=0)
        self.callback: Any = None  # of topology updates
        self.screening: list[Any] = []
        common = {
            "n_envs": 1,
            "batch_size": 256,
            "learning_starts": fill,
            "buffer_size": buffer_size,
            "policy_kwargs": {"net_arch": [256, 256]},
        }
        if kind == "ours":
            sparse = {"sparsity": sparsity, "distribution": distribution} if sparsity else {}
            algorithm = recipe or (f"anf-{learner}" if sparse else learner)
            self.model = self._ours(algorithm, learner, {**common, **sparse, "replay": replay})
        else:
            self.model = self._peer(kind, learner, {key: value for key, value in common.items() if key != "n_envs"})
        self.model.set_logger(Logger(folder=None, output_formats=[]))
        self.learn(fill)
        self.learn(WARM_UP)

    def _ours(self, algorithm: str, learner: str, changes: dict[str, Any]) -> Any:
        from sparse_rl.agents.build import in_gradient_steps, learner_defaults, make_method, make_model
        from sparse_rl.agents.checks import check_recipe
        from sparse_rl.agents.recipe import load_recipe, override
        from sparse_rl.sb3 import ScreeningCallback

        recipe = override(load_recipe(algorithm, "HalfCheetah"), changes)
        defaults = learner_defaults(learner)
        recipe = {**defaults, **check_recipe(recipe, defaults)}
        if "method" in recipe:
            self.callback = timed_callback(make_method(in_gradient_steps(recipe)))
        if "screening" in recipe:
            self.screening.append(ScreeningCallback(**recipe["screening"]))
        hyperparameters = {key: value for key, value in recipe.items() if value is not None}
        return make_model(learner, hyperparameters, self.env, 0, "cpu")

    def _peer(self, kind: str, learner: str, recipe: dict[str, Any]) -> Any:
        import importlib

        import numpy as np
        from stable_baselines3.common.noise import NormalActionNoise

        package = importlib.import_module({"sb3": "stable_baselines3", "sbx": "sbx"}[kind])
        algorithm = getattr(package, learner.upper())
        if learner == "td3":
            zeros = np.zeros(self.env.action_space.shape or ())
            recipe = {**recipe, "action_noise": NormalActionNoise(zeros, zeros + 0.1)}
        return algorithm("MlpPolicy", self.env, seed=0, device="cpu", **recipe)

    def about(self) -> dict[str, Any]:
        """Tell what was built."""
        arrays = replay_arrays(self.model.replay_buffer)
        return {
            "features": self.env.observation_space.shape[0],
            "actions": self.env.action_space.shape[0],
            "bytes_per_transition": sum(a.nbytes for a in arrays) / self.model.replay_buffer.buffer_size,
            "update_interval": getattr(self.callback and self.callback.method, "update_interval", 0),
        }

    def learn(self, steps: int) -> dict[str, Any]:
        """Train for some environment steps, and time it."""
        timer = self.callback
        before = (timer.updates, timer.seconds) if timer else (0, 0.0)
        start = time.perf_counter()
        callbacks = [*self.screening, *([timer] if timer else [])]
        self.model.learn(steps, callbacks, log_interval=1 << 30, reset_num_timesteps=False)
        seconds = time.perf_counter() - start
        after = (timer.updates, timer.seconds) if timer else (0, 0.0)
        return {
            "steps": steps,
            "seconds": seconds,
            "updates": after[0] - before[0],
            "update_seconds": after[1] - before[1],
            "peak_mb": memory("VmHWM"),
        }

    def rewire(self) -> dict[str, Any]:
        """Update the topology once, now, and time it."""
        callback, now = self.callback, self.model._n_updates
        if callback.method.needs_gradient:
            callback._caught_for, callback._catcher = now, callback._make_catcher()
            return {"seconds": self.learn(2)["update_seconds"]}  # it is updated after the first of these steps
        start = time.perf_counter()
        callback._rewire(now)
        return {"seconds": time.perf_counter() - start}

    def tile(self) -> dict[str, Any]:
        """Fill the whole replay with copies of the transitions in it, written to its arrays: every page is touched."""
        buffer = self.model.replay_buffer
        arrays, n = replay_arrays(buffer), buffer.pos
        needed, available = sum(a.nbytes for a in arrays), available_memory()
        if needed > 0.9 * available:
            raise MemoryError(f"the replay has {needed / 1e9:.1f} GB, {available / 1e9:.1f} GB are available")
        before, start = memory("VmRSS"), time.perf_counter()
        for array in arrays:
            for first in range(n, len(array), n):
                array[first : first + n] = array[: len(array) - first][:n]
        buffer.pos, buffer.full = 0, True
        seconds = time.perf_counter() - start
        return {"before_mb": before, "rss_mb": memory("VmRSS"), "array_mb": needed / 1e6, "seconds": seconds}

    def sample(self, batches: int) -> dict[str, Any]:
        """Draw batches of 256, and time it."""
        start = time.perf_counter()
        for _ in range(batches):
            self.model.replay_buffer.sample(256)
        return {"seconds": time.perf_counter() - start}


def timed_callback(method: Any) -> Any:
    """Make the callback that rewires the topology, with a clock."""
    from sparse_rl.sb3 import TopologyCallback

    class Timed(TopologyCallback):
        seconds = 0.0

        def _on_rollout_start(self) -> None:
            updates, start = self.updates, time.perf_counter()
            super()._on_rollout_start()
            if self.updates > updates:
                self.seconds += time.perf_counter() - start

    return Timed(method)


def replay_arrays(buffer: Any) -> list[Any]:
    """Find the arrays in which a replay buffer keeps its transitions."""
    import numpy as np

    arrays = [value for value in vars(buffer).values() if isinstance(value, np.ndarray)]
    return [array for array in arrays if array.shape[:1] == (buffer.buffer_size,)]


def memory(field: str) -> float:
    """Read this process's peak (``VmHWM``) or present (``VmRSS``) memory, in MB; elsewhere than on Linux the peak."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith(field))
        return int(line.split()[1]) * 1024 / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6  # macOS counts bytes


def available_memory() -> float:
    """Read how many bytes can be used without swapping."""
    # By hand: processes of other packages, whose memory is reported, shall not import ours for it.
    info = Path("/proc/meminfo")
    if not info.exists():
        return float("inf")
    line = next(line for line in info.read_text().splitlines() if line.startswith("MemAvailable"))
    return int(line.split()[1]) * 1024.0


def main() -> None:
    """Take commands until there are no more."""
    # Libraries print to standard output, which is for answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {int(core) for core in sys.argv[1:]})
    worker: Any = None
    for line in sys.stdin:
        arguments = json.loads(line)
        what = arguments.pop("what")
        try:
            if what == "build":
                worker = Worker(**arguments)
                answer = worker.about()
            else:
                answer = getattr(worker, what)(**arguments)
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
