"""The training layer: the only code of `common`, beside `data`, that a run's key can reach."""
