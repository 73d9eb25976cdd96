"""Between audio and latents: the codecs, and how their latents are normed."""
