"""Learning: the loop over a batch, optimisers, epochs, checkpoints and interventions."""
