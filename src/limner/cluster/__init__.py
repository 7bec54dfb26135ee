"""Life on a Slurm cluster: which GPUs are free, a notebook on a node, jobs that survive the night.

Nothing here imports torch, numpy or accelerate, so that every command answers at once on a login node. Slurm is asked
through its own commands (`slurm.py`), and what it says is read in one place each: `gres.py`, `nodelist.py`,
`readers.py`, `queue.py`.
Next: `inventory.py` for nodes and GPUs, `script.py` and `jobs.py` for training jobs, `jupyter.py` for notebooks,
`cli.py` for the verbs.
"""
