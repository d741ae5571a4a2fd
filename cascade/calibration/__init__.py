"""From a confidence score to a decision: P(wrong), a threshold with a guarantee, and how good both are."""

from cascade.calibration.fit import fit_calibration, split_parts
from cascade.calibration.metrics import (
    CalibrationMetrics,
    ReliabilityBin,
    RiskCoverage,
    auroc,
    brier_score,
    calibration_metrics,
    expected_calibration_error,
    reliability_bins,
    risk_coverage,
)
from cascade.calibration.records import Calibration, CalibrationConfig, CalibrationExample
from cascade.calibration.threshold import allowed_wrong, error_upper_bound, least_accepted

__all__ = [
    "Calibration",
    "CalibrationConfig",
    "CalibrationExample",
    "CalibrationMetrics",
    "ReliabilityBin",
    "RiskCoverage",
    "allowed_wrong",
    "auroc",
    "brier_score",
    "calibration_metrics",
    "error_upper_bound",
    "expected_calibration_error",
    "fit_calibration",
    "least_accepted",
    "reliability_bins",
    "risk_coverage",
    "split_parts",
]
