"""From folders and manifests to the encoded store, and to the batches that training draws from it."""
