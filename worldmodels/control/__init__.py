"""Continuous control from vectors: SAC, dynamics ensembles, and short rollouts in them (RAVL)."""
