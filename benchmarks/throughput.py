"""
Environment steps per second of whole training loops, side by side with Stable-Baselines3 and SBX.

    python benchmarks/throughput.py --threads 2
    python benchmarks/throughput.py --threads 2 --recipes sac anf-sac rigl-sac

A step is one of the environment, its transition into the replay, and one gradient step on a batch of 256. Each agent
has a process of its own; they take turns of --steps, --rounds times, so that all meet the same machine.
"""

from dataclasses import replace

from _children import Agent, children, interleave, sparse_agents, with_replay
from _report import machine, parser, write

from sparse_rl.agents.recipe import learner_of


def agents(learner: str, environment: str, replay: str) -> list[Agent]:
    """List the agents of one table, the reference first."""
    name = learner.upper()
    base = environment.partition("-noise")[0]
    ours = [replace(agent, env=environment) for agent in sparse_agents(learner)]
    return [
        Agent(f"SB3 {name}", "sb3", learner, environment),
        Agent(f"SB3 {name}, without noise", "sb3", learner, base),
        Agent(f"SBX {name}", "sbx", learner, environment),
        *with_replay(ours, replay, base != environment),
    ]


def recipes(names: list[str], environment: str, replay: str) -> list[Agent]:
    """List agents with the sparsity of their own recipes, those of Stable-Baselines3 first."""
    learner = learner_of(names[0])
    ours = [Agent(name, "ours", learner, environment, recipe=name) for name in names]
    return [Agent(f"SB3 {learner.upper()}", "sb3", learner, environment), *with_replay(ours, replay)]


def main() -> None:
    """Read the command line, time, write a table for each learner."""
    flags = parser("throughput", __doc__ or "", threads=2, rounds=5)
    flags.add_argument("--env", default="HalfCheetah-noise98")
    flags.add_argument("--learners", nargs="+", default=["sac", "td3"], choices=["sac", "td3"])
    flags.add_argument("--recipes", nargs="+", metavar="ALGO", help="these, as they are, instead of the usual agents")
    flags.add_argument("--replay", default="both", choices=["redrawn", "observed", "both"], help="for this project's")
    flags.add_argument("--steps", type=int, default=250, help="in each turn; default: %(default)s")
    flags.add_argument("--fill", type=int, default=10_000, help="random transitions before; default: %(default)s")
    flags.add_argument("--only", nargs="+", metavar="WORD", help="agents whose name has one of these words")
    args = flags.parse_args()
    for table in ["recipes"] if args.recipes else args.learners:
        chosen = recipes(args.recipes, args.env, args.replay) if args.recipes else agents(table, args.env, args.replay)
        chosen = [replace(agent, fill=args.fill) for agent in chosen]
        if args.only:
            others = [agent for agent in chosen[1:] if any(word in agent.name for word in args.only)]
            chosen = [chosen[0], *others]
        with children(chosen, args.threads) as family:
            interleave(family, args.rounds, args.steps)
            rows = [child.row(family[0]) for child in family]
        total = args.rounds * args.steps
        notes = [
            *machine(args.threads),
            f"{args.env}, batch 256, [256, 256] units, one gradient step per environment step, no evaluations or logs",
            f"median and interquartile range of {args.rounds} interleaved rounds of {args.steps} steps; `times SB3` is "
            "the median of the rounds' ratios to the first line",
            f"{args.fill:,} random transitions in the replay at the start, room for 100,000; peak memory is that of "
            "the whole process, imports and compilation included",
            "topology updates (every 1000 gradient steps) are charged to all rounds alike, from those in the rounds "
            f"or, if none came, from one made for the purpose; {total:,} steps were timed",
        ]
        write(args.out, f"throughput-{table}", notes, rows)


if __name__ == "__main__":
    main()
