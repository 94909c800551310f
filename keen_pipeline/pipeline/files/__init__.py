"""Landed files: landed, told by manifests, verified, compared with earlier ones, removed."""
