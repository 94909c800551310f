"""The sensors: extractions' status, freshness, notifications."""
