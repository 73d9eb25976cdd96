"""What a grid file says: factors, levels and constraints, expanded into cells."""
