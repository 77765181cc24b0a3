"""Fine-tuning over clients whose records stay with them, on Flower, and taking a client out."""
