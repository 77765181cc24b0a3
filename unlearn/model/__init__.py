"""Models and adapters: opening, switching, scoring, generating, saving."""
