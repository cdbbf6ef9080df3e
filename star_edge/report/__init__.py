"""The page that shows what a bundle's reports measured, in one HTML file."""

from __future__ import annotations

from star_edge.report.page import PageReport, make_page

__all__ = ["PageReport", "make_page"]
