"""What trainer.py's loop uses: set-up of a run, objectives, optimizers, parallelism, metrics, plots."""
