"""
An environment of your own, registered under an id.

    python train.py --env examples.own_environment:Reach-v0
"""

from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


class Reach(gym.Env[Floats, Floats]):
    """
    A point on a line, to be pushed to a goal.

    :param force: how hard it can be pushed
    """

    def __init__(self, force: float = 0.2, render_mode: str | None = None) -> None:
        self.force = force
        self.render_mode = render_mode
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (3,))  # position, velocity, goal
        self.action_space = gym.spaces.Box(-1, 1, (1,))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Floats, dict[str, Any]]:
        """Begin an episode, with all random numbers from ``self.np_random``."""
        super().reset(seed=seed)
        self.position, self.goal = self.np_random.uniform(-1, 1, size=2).tolist()
        self.velocity = 0.0
        return self._observe(), {}

    def step(self, action: Floats) -> tuple[Floats, float, bool, bool, dict[str, Any]]:
        """Push."""
        self.velocity = 0.8 * self.velocity + self.force * float(action[0])
        self.position += self.velocity
        return self._observe(), -abs(self.position - self.goal), False, False, {}

    def _observe(self) -> Floats:
        return np.array([self.position, self.velocity, self.goal], np.float32)


# The module is what the id names: importing it has to register the environment.
gym.register("Reach-v0", entry_point=Reach, max_episode_steps=50)
