"""Usage as one HTML page that needs nothing but itself: `render(Figures.of(rows), levels)`."""

from __future__ import annotations

from blueprint_llm.report.figures import Figures
from blueprint_llm.report.page import render

__all__ = ["Figures", "render"]
