"""Arrays to learn from: datasets by name, found or downloaded, checked and split. NumPy only."""

__all__ = ["datasets", "image_files", "picture_cache", "picture_files", "splits"]
