"""The dataset doctor: every case against itself and against every other."""
