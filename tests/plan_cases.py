"""A command line, settled into a plan, for tests that ask what a run would do."""

from argparse import Namespace

from sparse_rl.agents.build import learner_defaults
from sparse_rl.agents.recipe import learner_of
from sparse_rl.commands.train_arguments import make_parser
from sparse_rl.envs import EnvironmentId
from sparse_rl.training.plan import Plan, make_plan, read_recipe


def settle(*words: str) -> Plan:
    """Plan what ``train.py`` would do with these words."""
    args: Namespace = make_parser().parse_args(words)
    environment = EnvironmentId.parse(args.env)
    return make_plan(args, environment, read_recipe(args, environment), learner_defaults(learner_of(args.algo)))
