"""How long inference takes, stage by stage, beside what was published.

`measuring.benchmark_experiment(config)` times an experiment's network, `measuring.benchmark_model(path, images)`
a trained one.
"""
