"""What features mean: where they fire, what they promote, what they lead to, and a label with its score."""
