"""SAGA-SR (arXiv 2509.24924): the model, its data, training and metrics. Knows nothing of grids, Ray or MLflow."""

__version__ = "0.1.0"  # the one place; pyproject.toml reads it from here
