"""Training: labelled images of any kind in, weights that `seggeo segment` uses out."""
