"""Second looks: taken for all workers of a data folder by one process, the encoder's, which each worker asks."""
