"""ENAS: a controller that samples architectures of one shared-weight network (Pham et al. 2018)."""
