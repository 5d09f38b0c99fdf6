"""The vocabulary: architectures, spaces and their lowering to layers. No torch."""
