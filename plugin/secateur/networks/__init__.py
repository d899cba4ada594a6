"""Networks to prune that no other package brings: those of the papers for CIFAR and one for scikit-learn's digits."""

from secateur.networks.cifar_densenet import CifarDenseNet, densenet40
from secateur.networks.cifar_googlenet import CifarGoogLeNet, googlenet
from secateur.networks.cifar_resnet import CifarResNet, resnet20, resnet56, resnet110
from secateur.networks.cifar_vgg import CifarVGG, vgg16_bn
from secateur.networks.digits import DigitsResNet, digits_resnet

__all__ = [
    "CifarDenseNet",
    "CifarGoogLeNet",
    "CifarResNet",
    "CifarVGG",
    "DigitsResNet",
    "densenet40",
    "digits_resnet",
    "googlenet",
    "resnet20",
    "resnet56",
    "resnet110",
    "vgg16_bn",
]
