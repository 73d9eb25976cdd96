"""Parts of a user's own: found, held to their contracts, and tried on a GPU that is not there."""
