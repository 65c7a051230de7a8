"""Training: states computed once, one loop for every method and target, runs that resume."""
