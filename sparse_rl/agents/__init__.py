"""Who learns: SAC and TD3 learners, their recipes, and the replay that redraws noise."""
