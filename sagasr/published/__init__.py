"""What others have published, and how it is loaded: models of Hugging Face, checkpoints, and stable-audio-tools."""
