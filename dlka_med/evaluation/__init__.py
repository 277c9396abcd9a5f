"""Predictions against references: numbers and pictures."""
