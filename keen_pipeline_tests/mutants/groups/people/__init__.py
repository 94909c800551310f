"""Lists of what people see: definitions, commands, notices."""
