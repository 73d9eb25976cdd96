"""From finished trials to verdicts: reads plan.json and results/*.parquet, imports neither torch nor Ray.

In order: sweep.py and replicates.py read; design.py and strata.py turn levels into least-squares weights; contrasts.py
names what is compared; variance.py and findings.py estimate; verdict.py says it in a word; effects.py writes the table.
Beside them: looks.py and sequential.py (`policy: blocks`), crosscheck.py, power.py; simulate.py tests it all.
"""
