"""Methods that change weights without gradient steps of their own."""
