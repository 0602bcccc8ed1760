"""Output directories and URLs, and the manifest of what they were made from."""
