"""Temperatures that make the probabilities of trained runs believable."""
