"""Who learns: SAC and TD3 learners, recipes, and the training runs that ``train.py`` starts."""
