"""SurVAE Flows: surjections to bridge the gap between VAEs and flows (Nielsen et al., NeurIPS 2020)."""
