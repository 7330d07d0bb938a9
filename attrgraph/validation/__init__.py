"""How far a graph can be trusted: predictions put to the test in the model."""

from attrgraph.validation.report import check_report
from attrgraph.validation.result import Statement, Validation
from attrgraph.validation.validate import validate

__all__ = ["Statement", "Validation", "check_report", "validate"]
