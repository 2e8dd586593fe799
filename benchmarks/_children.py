"""
Agents in processes of their own, of which one works at a time.

Thread counts are per process, and read when libraries are loaded, so each agent has a process, started with the same
variables and tied to the same cores. Between its turns it waits for the next line of its standard input.
"""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from _report import Row, cores, spread, thread_variables

WORKER = Path(__file__).with_name("_worker.py")
PEERS = {"sbx": "sbx"}  # kind of agent -> the module that it needs


@dataclass(frozen=True)
class Agent:
    """
    What a child trains.

    :param name: in tables
    :param kind: ``"sb3"``, ``"sbx"`` or ``"ours"``
    :param learner: ``"sac"`` or ``"td3"``
    :param env: id of the environment
    :param replay: noise protocol of ours; the others store noise as it was seen
    :param sparsity: 0 for dense
    :param distribution: ``"input"``, or ``"uniform"`` for all layers but the heads
    :param fill: random transitions in the replay before training
    :param buffer_size: room in the replay
    :param recipe: one of ours by the name of its recipe, such as ``"rigl-sac"``, whose sparsity it has
    """

    name: str
    kind: str
    learner: str
    env: str
    replay: str = "observed"
    sparsity: float = 0
    distribution: str = "input"
    fill: int = 10_000
    buffer_size: int = 100_000
    recipe: str = ""


def sparse_agents(learner: str) -> list[Agent]:
    """List this project's agents of a learner, without environment."""
    upper = learner.upper()
    return [
        Agent(f"{learner}", "ours", learner, ""),
        Agent(f"anf-{learner}, input layers 80 %", "ours", learner, "", sparsity=0.8),
        Agent(f"anf-{learner}, input layers 95 %", "ours", learner, "", sparsity=0.95),
        Agent(f"sparse {upper}, all layers 90 %", "ours", learner, "", sparsity=0.9, distribution="uniform"),
        Agent(f"sparse {upper}, all layers 95 %", "ours", learner, "", sparsity=0.95, distribution="uniform"),
    ]


def with_replay(agents: Sequence[Agent], replay: str, is_noisy: bool = True) -> list[Agent]:
    """Give each agent a noise protocol: ``"redrawn"``, ``"observed"`` or ``"both"``."""
    if not is_noisy:
        return list(agents)
    protocols = ("redrawn", "observed") if replay == "both" else (replay,)
    return [replace(agent, replay=protocol) for agent in agents for protocol in protocols]


class Child:
    """
    One agent in its process.

    :param agent: the agent
    :param threads: how many threads, and cores, it may use
    """

    def __init__(self, agent: Agent, threads: int) -> None:
        self.agent = agent
        self.gap: str | None = None
        self.about: dict[str, Any] = {}
        self.turns: list[dict[str, Any]] = []
        self._process: subprocess.Popen[str] | None = None
        self._forced: float | None = None
        peer = PEERS.get(agent.kind)
        if peer is not None and importlib.util.find_spec(peer) is None:
            self.gap = "not installed"
            return
        command = [sys.executable, str(WORKER), *map(str, cores()[:threads])]
        environment = {**os.environ, **thread_variables(threads)}
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment)

    def build(self) -> None:
        """Make the agent, fill its replay and compile what has to be compiled."""
        self.about = self.ask("build", **asdict(self.agent))

    def learn(self, steps: int) -> None:
        """Train for some environment steps, with one gradient step each."""
        turn = self.ask("learn", steps=steps)
        if turn:
            self.turns.append(turn)

    def ask(self, what: str, **arguments: Any) -> dict[str, Any]:
        """Send a command and wait for the answer, which is empty after a failure: then there is a gap to print."""
        if self.gap is not None or self._process is None:
            return {}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"what": what, **arguments}) + "\n")
            self._process.stdin.flush()
            answer: dict[str, Any] = json.loads(self._process.stdout.readline() or '{"error": "the process died"}')
        except BrokenPipeError:
            answer = {"error": "the process died"}
        if "error" in answer:
            self.gap = answer["error"]
            return {}
        return answer

    def close(self) -> None:
        """End the process; what was measured stays."""
        if self._process is not None:
            self._process.communicate()

    def milliseconds(self) -> list[float]:
        """
        Give the milliseconds per environment step of each turn.

        Topology updates are rare: the time of those that fell into any turn is taken out there, and charged to all
        turns alike, at the rate at which updates come.
        """
        charge = self.update_seconds() / self.about["update_interval"] if self.about["update_interval"] else 0.0
        return [1e3 * ((turn["seconds"] - turn["update_seconds"]) / turn["steps"] + charge) for turn in self.turns]

    def update_seconds(self) -> float:
        """Give the mean time of a topology update: of those in the turns or, if none came, of one that is made now."""
        updates = sum(turn["updates"] for turn in self.turns)
        if updates:
            return sum(turn["update_seconds"] for turn in self.turns) / updates  # type: ignore[no-any-return]
        if self._forced is None:
            self._forced = self.ask("rewire").get("seconds", 0.0)
        return self._forced

    def row(self, reference: "Child") -> Row:
        """Summarise all turns, as ratios to a reference's turns in the same rounds."""
        agent = self.agent
        protocol = "as seen" if agent.kind != "ours" else agent.replay
        result: dict[str, object] = {"agent": agent.name, "noise replayed": protocol}
        if self.gap is not None or not self.turns:
            return {**result, "gap": self.gap or "nothing was measured"}
        times = self.milliseconds()
        median, iqr = spread(times)
        result |= {"steps/s": 1e3 / median, "ms/step": median, "ms/step IQR": iqr}
        if reference.gap is None:
            result["times SB3"], result["times SB3 IQR"] = spread(
                [a / b for a, b in zip(reference.milliseconds(), times, strict=False)]
            )
        result["topology update, ms"] = 1e3 * self.update_seconds() if self.about["update_interval"] else None
        result["peak memory, MB"] = self.turns[-1]["peak_mb"]
        result["replay, bytes/transition"] = self.about["bytes_per_transition"]
        return result


@contextmanager
def children(agents: Sequence[Agent], threads: int) -> Iterator[list[Child]]:
    """Start a child for each agent, wait till all are ready, and end them afterwards."""
    family = [Child(agent, threads) for agent in agents]
    try:
        with ThreadPoolExecutor(max_workers=2) as pool:
            list(pool.map(Child.build, family))
        yield family
    finally:
        for child in family:
            child.close()


def interleave(family: Sequence[Child], rounds: int, steps: int) -> None:
    """Let the children learn in turns, so that all meet the same machine."""
    for _ in range(rounds):
        for child in family:
            child.learn(steps)
    for child in family:
        if child.turns and child.about["update_interval"]:
            child.update_seconds()  # while there is a process
