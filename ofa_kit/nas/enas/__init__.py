"""ENAS (Pham et al. 2018): a controller samples parts of one network whose weights all samples share."""
