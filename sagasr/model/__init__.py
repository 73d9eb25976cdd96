"""SAGA-SR itself: the transformer, its conditions, rectified flow, guidance, and where weights come from."""
