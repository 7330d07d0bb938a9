"""How far a graph can be trusted: predictions put to the test in the model."""

from attrgraph.validation.result import Statement, Validation
from attrgraph.validation.validate import validate
from attrgraph.validation.validation_report import check_report

__all__ = ["Statement", "Validation", "check_report", "validate"]
