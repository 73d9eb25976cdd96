"""One training from configuration to scores, and all that it leaves in its folder."""
