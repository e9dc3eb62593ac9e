"""The old name of `vlp.data.datamodule`, for users' own data sets; it will be removed in version 0.3."""

from vlp.data import datamodule
from vlp.system.renamed import renamed_attributes

__getattr__ = renamed_attributes(__name__, {name: f"vlp.data.datamodule.{name}" for name in vars(datamodule)})
