"""What speaks HTTP to the clients: the server, its protocol, its connections."""
