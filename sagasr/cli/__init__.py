"""The commands sagasr-train and sagasr-upsample."""
