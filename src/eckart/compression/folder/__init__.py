"""A compressed folder: its manifest, how it is written, made dense again, and checked."""
