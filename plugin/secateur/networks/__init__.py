"""Networks to prune that no other package brings: ResNets for CIFAR and one for scikit-learn's digits."""

from secateur.networks.cifar_resnet import CifarResNet, resnet20, resnet56, resnet110
from secateur.networks.digits import DigitsResNet, digits_resnet

__all__ = ["CifarResNet", "DigitsResNet", "digits_resnet", "resnet20", "resnet56", "resnet110"]
