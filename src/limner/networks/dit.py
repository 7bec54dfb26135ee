"""Placeholder, replaced below."""
from limner.networks.base import NetworkConfig
class DiT(NetworkConfig):
    kind: str = "dit"
