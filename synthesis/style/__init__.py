"""Fast style transfer: the network, the vectors that are its styles, and what they are fitted by."""
