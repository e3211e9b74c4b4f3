"""A trained network as files for other programs, each checked against the network before it is kept."""
