"""Models as Hugging Face keeps them: its classes, its files, both ways."""
