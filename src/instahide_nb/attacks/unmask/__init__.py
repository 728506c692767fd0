"""The `unmask` attack: private images from masked mixtures, without a network and without the generator's bug."""
