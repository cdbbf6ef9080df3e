"""Training: recipes, augmentation, packed batches, checkpoints, the loop, evaluation."""
