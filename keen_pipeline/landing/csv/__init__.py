"""What a CSV file is: its records, proof, masking and joining."""
