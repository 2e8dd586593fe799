"""
Tuning: which hyperparameters suit an environment, found by Optuna (https://optuna.org).

- :mod:`sparse_rl.tuning.space`: what may be varied, and how far
- :mod:`sparse_rl.tuning.study`: what is known so far, on the disk
- :mod:`sparse_rl.tuning.tuner`: the loop: asks Optuna for parameters, and has them tried
- :mod:`sparse_rl.tuning.worker`: the process of one trial, which is an ordinary run
- :mod:`sparse_rl.tuning.report`: what comes out of it: a table, a recipe, a picture
"""
