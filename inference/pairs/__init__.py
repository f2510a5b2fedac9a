"""A Pyro model/guide pair as per-datapoint densities, its contract and its data."""
