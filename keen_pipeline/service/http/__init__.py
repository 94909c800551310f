"""The service's HTTP: routes, parameters, answers."""
