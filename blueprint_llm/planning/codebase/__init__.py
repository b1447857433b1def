"""Reads a project's files and finds those that a goal is about.

The only folder of `planning` that touches the disk of a project; everything it returns is plain values.
"""

from __future__ import annotations

from blueprint_llm.planning.codebase.files import SourceFile, read_codebase
from blueprint_llm.planning.codebase.outline import outline
from blueprint_llm.planning.codebase.ranking import CodeIndex, FileTerms, terms_of

__all__ = ["CodeIndex", "FileTerms", "SourceFile", "outline", "read_codebase", "terms_of"]
