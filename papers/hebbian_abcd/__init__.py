"""Najarro, Risi: Meta-Learning through Hebbian Plasticity in Random Networks (NeurIPS 2020)."""
