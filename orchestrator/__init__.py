"""The ablation around SAGA-SR: grid, plan, execution, tracking, analysis, report."""
