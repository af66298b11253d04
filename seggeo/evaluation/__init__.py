"""How good a result is: predicted objects against true ones, sparse, at the scale of slides and scenes."""
