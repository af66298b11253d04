"""Merging readings across seams: match, group, resolve, in one streaming sweep over the parts."""
