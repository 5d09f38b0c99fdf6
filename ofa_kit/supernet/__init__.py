"""Elastic networks: `supernet(images, arch)` computes what the extracted subnet of `arch` computes."""
