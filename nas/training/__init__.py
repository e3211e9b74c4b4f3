"""One network trained and measured: recipe, trainer, augmentation."""
