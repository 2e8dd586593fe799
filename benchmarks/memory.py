"""
What agents keep in memory: bytes per active weight, and a full replay of extremely noisy observations.

    python benchmarks/memory.py
    python benchmarks/memory.py --transitions 10000    # a small one

The weights are counted from real tensors of agents that have trained. The replay is reserved, and filled to the last
byte by copying transitions of a short ordinary collection into its arrays; then the agent trains from it.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from _children import Agent, Child, children, sparse_agents
from _report import Row, machine, parser, restart_with, spread, write
from _worker import Worker, replay_arrays
from torch import nn

from sparse_rl.metrics import count_weights
from sparse_rl.nn import SparseLinear


def arrays_in(thing: object, seen: set[int]) -> Iterator[tuple[int, int]]:
    """Find the memory behind an object: the address and bytes of every array and tensor in its attributes."""
    if id(thing) in seen:
        return
    seen.add(id(thing))
    if isinstance(thing, torch.Tensor):
        yield thing.untyped_storage().data_ptr(), thing.untyped_storage().nbytes()
        return
    if isinstance(thing, np.ndarray):
        if thing.base is None:
            yield thing.ctypes.data, thing.nbytes
        else:
            yield from arrays_in(thing.base, seen)
        return
    if isinstance(thing, dict):
        parts = list(thing.values())
    elif isinstance(thing, list | tuple):
        parts = list(thing)
    elif isinstance(thing, nn.Module) or dataclasses.is_dataclass(thing):
        parts = list(vars(thing).values())
    else:
        return
    for part in parts:
        yield from arrays_in(part, seen)


def index_bytes(layer: SparseLinear) -> int:
    """Count what a sparse layer keeps to know where its weights are: buffers, caches, everything but its parameters."""
    own = {parameter.untyped_storage().data_ptr() for parameter in layer.parameters()}
    own |= {p.grad.untyped_storage().data_ptr() for p in layer.parameters() if p.grad is not None}
    found = dict(arrays_in(layer, set()))
    return sum(size for address, size in found.items() if address not in own)


def moment_bytes(model: Any, parameter: torch.Tensor) -> int:
    """Count what the optimizers keep for a parameter."""
    optimizers = (model.actor.optimizer, model.critic.optimizer)
    states = [optimizer.state[parameter] for optimizer in optimizers if parameter in optimizer.state]
    tensors = [value for state in states for value in state.values() if value.numel() == parameter.numel()]
    return sum(tensor.nbytes for tensor in tensors)


def weight_row(agent: Agent, steps: int) -> Row:
    """Count the bytes of an agent's sparse layers, and of all its networks, against a dense agent's."""
    model = Worker(**dataclasses.asdict(agent)).model
    model.learn(steps, reset_num_timesteps=False)  # optimizers make their state when they first step
    layers = [(n, m) for n, m in model.policy.named_modules() if isinstance(m, SparseLinear)]
    online = [layer for name, layer in layers if "_target" not in name]
    targets = [layer for name, layer in layers if "_target" in name]
    active = sum(layer.values.numel() for layer in online)
    parts = {
        "values": sum(layer.values.nbytes for layer in online),
        "moments": sum(moment_bytes(model, layer.values) for layer in online),
        "target": sum(layer.values.nbytes for layer in targets),
        "index": sum(map(index_bytes, online)),
        "index of target": sum(map(index_bytes, targets)),
        "gradient": sum(layer.values.grad.nbytes for layer in online if layer.values.grad is not None),
    }
    kept = sum(size for name, size in parts.items() if name != "gradient")
    # The same layers, dense: value and two moments of each weight, and a target where there is one.
    dense = 12 * sum(layer.in_features * layer.out_features for layer in online)
    dense += 4 * sum(layer.in_features * layer.out_features for layer in targets)
    return {
        "agent": agent.name,
        "weights in all networks": count_weights(model.policy),
        "active in sparse layers": active,
        **{f"{name}, bytes/weight": size / active for name, size in parts.items()},
        "all but gradient, bytes/weight": kept / active,
        "kept, MB": kept / 1e6,
        "same layers dense, MB": dense / 1e6,
        "of dense": kept / dense,
    }


def replay_row(child: Child, batches: int, steps: int, rounds: int) -> Row:
    """Fill a replay, and train from it."""
    agent = child.agent
    row: dict[str, object] = {"agent": agent.name, "noise replayed": agent.replay, "transitions": agent.buffer_size}
    row["features"] = child.about.get("features")
    row["bytes/transition"] = child.about.get("bytes_per_transition")
    filled = child.ask("tile")
    samples = []
    for _ in range(rounds):
        samples.append(child.ask("sample", batches=batches).get("seconds", 0.0) / batches)
        child.learn(steps)
    if child.gap is not None:
        return {**row, "gap": child.gap}
    row |= {"replay's arrays, MB": filled["array_mb"], "RSS before the fill, MB": filled["before_mb"]}
    row |= {
        "RSS full, MB": filled["rss_mb"],
        "fill, s": filled["seconds"],
        "ms/batch sampled": 1e3 * spread(samples)[0],
    }
    median, iqr = spread(child.milliseconds())
    return {
        **row,
        "steps/s": 1e3 / median,
        "ms/step": median,
        "ms/step IQR": iqr,
        "peak, MB": child.turns[-1]["peak_mb"],
    }


def stock_row(features: int, actions: int, transitions: int) -> Row:
    """Compute what Stable-Baselines3's own replay would have, from a small one."""
    from gymnasium.spaces import Box
    from stable_baselines3.common.buffers import ReplayBuffer

    buffer = ReplayBuffer(100, Box(-1, 1, (features,)), Box(-1, 1, (actions,)), "cpu")
    each = sum(array.nbytes for array in replay_arrays(buffer)) / 100
    row = {"agent": "SB3's ReplayBuffer", "noise replayed": "as seen", "transitions": transitions, "features": features}
    return {
        **row,
        "bytes/transition": each,
        "replay's arrays, MB": each * transitions / 1e6,
        "gap": "computed, not run",
    }


def main() -> None:
    """Read the command line, count, fill, write both tables."""
    flags = parser("memory", __doc__ or "", threads=2, rounds=5)
    flags.add_argument("--transitions", type=int, default=1_000_000, help="default: %(default)s")
    flags.add_argument("--env", default="Humanoid-noise98", help="of the replay; default: %(default)s")
    flags.add_argument("--weights-env", default="HalfCheetah-noise98", help="default: %(default)s")
    flags.add_argument("--steps", type=int, default=20, help="training steps in each round; default: %(default)s")
    flags.add_argument("--batches", type=int, default=20, help="batches sampled in each round; default: %(default)s")
    args = flags.parse_args()
    restart_with(args.threads)
    where = machine(args.threads)

    rows = []
    for agent in [agent for learner in ("sac", "td3") for agent in sparse_agents(learner) if agent.sparsity]:
        rows.append(weight_row(dataclasses.replace(agent, env=args.weights_env, fill=300, buffer_size=1000), 5))
    notes = [
        f"{args.weights_env}, [256, 256] units; bytes of the sparse layers' real tensors after some training",
        "SAC's actor has no target; four numbers of 4 bytes and an index of 4 would be 20 bytes/weight",
        "an index is all that a layer keeps besides its parameters, caches included; gradients stay between steps",
    ]
    write(args.out, "memory-weights", [*where, *notes], rows)

    replays: list[Row] = []
    about: dict[str, Any] = {}
    fill, room = min(2000, args.transitions // 2), args.transitions
    base = Agent("anf-sac, input layers 80 %", "ours", "sac", args.env, sparsity=0.8, fill=fill, buffer_size=room)
    for protocol in ("redrawn", "observed"):  # one after the other: two at a time might not fit
        agent = dataclasses.replace(base, replay=protocol)
        with children([agent], args.threads) as (child,):
            replays.append(replay_row(child, args.batches, args.steps, args.rounds))
        about = child.about or about
    if about:
        replays.append(stock_row(about["features"], about["actions"], args.transitions))
    notes = [
        f"median and interquartile range of {args.rounds} rounds of {args.steps} steps, batch 256",
        f"filled by copying some {fill:,} collected transitions through the replay's arrays",
    ]
    write(args.out, "memory-replay", [*where, *notes], replays)


if __name__ == "__main__":
    main()
