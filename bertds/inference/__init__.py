"""Using a trained run: evaluate, fill masks, embed, export."""
