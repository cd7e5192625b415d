"""What is around the commands: their completion, and whether they will work here."""
