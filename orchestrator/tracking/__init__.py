"""MLflow: one run per replicate, sent while the sweep goes on, and the report at its end."""
