"""Where the service's events lie."""
