"""Networks: what is asked y = f(x_t, t, conditioning). Start with `unet.py`."""

from limner.config import Config, Family
from limner.networks.base import Network, NetworkConfig
from limner.networks.dit import DiT
from limner.networks.unet import UNet

NETWORKS = Family("network", {"unet": UNet, "dit": DiT})

__all__ = ["NETWORKS", "Config", "DiT", "Network", "NetworkConfig", "UNet"]
