"""Networks: what is asked y = f(x_t, t, conditioning). Start with `unet.py`."""

from limner.config import Config, Family
from limner.networks.base import Network, NetworkConfig
from limner.networks.unet import UNet

NETWORKS = Family("network", {"unet": UNet})

__all__ = ["NETWORKS", "Config", "Network", "NetworkConfig", "UNet"]
