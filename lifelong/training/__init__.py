"""The training of a timestep: the Trainer, its state on disk, its peers, and which mean of adapters it keeps."""
