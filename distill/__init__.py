"""Making playable worlds: render clips, train an autoencoder and a transformer, measure them."""
