"""What is used of NNI 3.0, in one place: the other modules of this adapter import NNI from here.

Importing this module imports NNI, which takes seconds; `import secateur_nni` does not.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from typing import Any

from torch.optim import SGD

from secateur.errors import MissingDependencyError

INSTALL = 'pip install "secateur[nni]"'

try:
    from nni import trace
    from nni.common import is_traceable as is_traceable
    from nni.compression import TorchEvaluator as TorchEvaluator
    from nni.compression import pruning
    from nni.compression.base.compressor import Compressor as Compressor
    from nni.compression.base.compressor import Pruner as Pruner
    from nni.compression.base.config import select_modules_by_config as select_modules_by_config
    from nni.compression.base.setting import PruningSetting as PruningSetting
    from nni.compression.pruning import basic_pruner
    from nni.compression.utils import Evaluator as Evaluator
except ImportError as error:
    raise MissingDependencyError(f"NNI 3.0 cannot be imported ({error}); {INSTALL}") from error

StepwisePruner = basic_pruner._NormPruner
"""The base of NNI's pruners that make masks at once, or at steps of the training that a schedule sets."""


def own_pruner(name: str) -> Any:
    """Return a class of pruners that NNI brings, by its name there."""
    return getattr(pruning, name)


def traced_sgd(parameters: Any, *, lr: float) -> Any:
    """Return torch's SGD, made so that NNI can make it again for the wrapped network."""
    return trace(SGD)(parameters, lr=lr)


def check_nnictl() -> None:
    """Refuse an installation in which NNI's command line, nnictl, ends with a ModuleNotFoundError.

    nnictl and the trials of remote machines import pkg_resources (nni/tools/nnictl/nnictl.py, line 7), which setuptools
    82 removed. Pruners need neither.

    Raises:
        MissingDependencyError: there is no pkg_resources.

    Example:
        >>> check_nnictl()
    """
    if importlib.util.find_spec("pkg_resources") is not None:
        return
    try:
        found = f"setuptools {importlib.metadata.version('setuptools')} has none"
    except importlib.metadata.PackageNotFoundError:
        found = "setuptools is not installed"
    raise MissingDependencyError(f'nnictl needs pkg_resources, and {found}; pip install "setuptools>=77.0.3,<82"')
