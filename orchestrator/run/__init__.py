"""A plan is run on Ray: schedule, lanes, drivers, workers, watchdogs and retries, and the tables at the end."""
