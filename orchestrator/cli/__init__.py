"""The commands sagasr-sweep, sagasr-report and sagasr-encode."""
