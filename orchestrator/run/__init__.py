"""A plan is run on Ray: batches, drivers, workers, watchdogs and retries, and the tables at the end."""
