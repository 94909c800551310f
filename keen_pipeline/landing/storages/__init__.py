"""The storages a destination can lie on."""
