"""Training a supernet: rules say which subnets a step trains, one loop does the rest."""
