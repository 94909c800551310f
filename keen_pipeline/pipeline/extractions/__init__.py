"""Extractions: submitted, polled, waited for, split when they are too large."""
