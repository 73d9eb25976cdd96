"""From finished trials to verdicts: reads plan.json and results/*.parquet, imports neither torch nor Ray.

In the order of the work::

    load              the sweep folder, with tables (rows made comparable) and metrics
    design_matrix     levels as least squares; split_plot: their two strata, between and within trainings
    contrasts         what is compared: factors, pairs of factors, ladder steps
    variance          how sure an estimate is: for new seeds, and for new seeds and new clips
    estimates         every comparison, on every metric and domain
    verdict           families of tests, and the five verdicts
    effects           the table of effects, written to results/effects.parquet

``group_sequential`` and ``interim`` decide when to stop adding seeds (``policy: blocks``). For the reader beside the
table: ``diagnostics`` (what speaks against it), ``cells`` (what single cells reached), ``preferences`` (blind tests).
tests/simulation proves it all on generated experiments.
"""
