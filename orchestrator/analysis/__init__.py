"""From finished trials to verdicts: reads plan.json and results/*.parquet, imports neither torch nor Ray.

sweep.py and replicates.py read, design.py and strata.py turn levels into least-squares weights, contrasts.py names what
is compared, variance.py judges it, verdict.py says it in a word, effects.py puts the table together. sequential.py holds
the looks of `policy: blocks`, crosscheck.py what needs no formula, power.py what to expect before the first run.
"""
