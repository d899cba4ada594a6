"""What may go wrong, found before it does: the installation, the network, NNI."""
