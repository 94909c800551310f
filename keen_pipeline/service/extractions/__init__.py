"""Extractions: records, worker, results, mail."""
