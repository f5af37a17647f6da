"""Telemetry of the libraries underneath is off, wherever the project's definitions or commands run."""

from __future__ import annotations

import os

TELEMETRY_OFF = {
    "DAGSTER_DISABLE_TELEMETRY": "1",
    "GX_ANALYTICS_ENABLED": "false",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}


def telemetry_off() -> None:
    """Switch off the telemetry of Dagster, Great Expectations, Hugging Face and Ray in this process and its children.

    A variable that the user has set stands. Call it before these libraries are imported: some read theirs once.
    """
    for name, value in TELEMETRY_OFF.items():
        os.environ.setdefault(name, value)
