"""What is made of counts before an analysis."""

from .pseudobulk import pseudobulk as pseudobulk
