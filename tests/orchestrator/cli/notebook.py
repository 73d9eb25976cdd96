"""A sweep in a notebook. Jupyter, VS Code and PyCharm open this file as cells; a test runs it beside a small grid."""

# %% A sweep is a grid file, or its keys; keywords replace keys of the file.
from orchestrator import Sweep

sweep = Sweep("grid.yaml", seeds=[0, 1], early_stopping={"policy": "none", "metric": "val/lsd", "delta": 0.05})

# %% What would run, what it would cost, and where each cell stands. Nothing starts, nothing is written.
sweep.plan()

# %%
sweep.plan().cells

# %% Run what is missing. The same again resumes: finished replicates are kept.
outcome = sweep.run(quiet=True)

# %% The answer: tables and the forest plot.
answer = sweep.analyse()
answer

# %% Everything as data frames.
sweep.effects[["family", "contrast", "metric", "estimate", "low", "high", "verdict"]]

# %%
sweep.replicates.groupby(["text", "lfr"])[["lsd", "loudness"]].mean()

# %%
sweep.clips, sweep.curves

# %% A figure of matplotlib, to be saved or changed.
answer.forest().savefig("forest.png")
